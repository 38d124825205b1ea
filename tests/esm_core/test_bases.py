"""Kept decompositions: one more fine-tune is decomposed, the others are read, and no bit depends on it."""

import copy
import json
import math
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from services import S3Server
from whole_merge import merge_whole
from world import World, build_world, merge_layers

from esm_core import IntegrityError, MergeSettings, bases
from esm_core.bases import Part, basis_file, basis_folders, made_rank, read_basis, rounded, write_basis
from esm_core.checkpoints import SafetensorsFile
from esm_core.esd import Decomposition, decompose_update
from esm_core.factor import InputFactor
from esm_core.gc.collect import collect
from esm_core.gc.report import Policy
from esm_core.layer_merges import merge_one, read_update
from esm_core.methods import esm, tsv_m
from esm_core.outline import Rule
from esm_core.plan import Plan
from esm_core.reachable import reachable
from esm_core.storage import Location

NAMES = tuple(f"task{n}" for n in range(1, 10))
IN_PROJ = "visual.transformer.resblocks.0.attn.in_proj_weight"
WEIGHTS = 10


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Nine fine-tunes that are collected, none of which is decomposed."""
    world = build_world(tmp_path_factory.mktemp("nine") / "world", tasks=NAMES, test=False)
    merge_layers(world)
    for kind in ("bases", "merges"):
        shutil.rmtree(world.root / "store" / kind)
    return world


@pytest.fixture
def world(nine: World, tmp_path: Path) -> World:
    return nine.copied_to(tmp_path / "world")


def merge_of(world: World, names: tuple[str, ...] = NAMES, **changes: object) -> Plan:
    """Merge the layers of some of the fine-tunes; ``changes`` are to the recipe."""
    tasks = [world.task(name) for name in names]
    return merge_layers(World(world.root, {**copy.deepcopy(world.recipe), "tasks": tasks, **changes}))


def kept(world: World) -> dict[str, int]:
    """Kept decompositions, and when each was written."""
    store = world.root / "store"
    return {str(path.relative_to(store)): path.stat().st_mtime_ns for path in store.glob("bases/*/*")}


def kept_of(plan: Plan, *names: str) -> set[str]:
    """Files that a plan keeps of some tasks."""
    files = [basis_file(plan, weight, name) for weight in plan.decomposed for name in names]
    return {file.url.removeprefix(f"{plan.store.url}/") for file in files}


def merged(plan: Plan) -> dict[str, bytes]:
    """Every file of a plan's merged layers."""
    folder = plan.store / "merges" / plan.merge_digest
    return {name: (folder / name).read_bytes() for name in folder.files()}


def without(world: World, folder: Path, *kinds: str) -> World:
    copied = world.copied_to(folder)
    for kind in kinds:
        shutil.rmtree(copied.root / "store" / kind)
    return copied


# Growth.


def test_a_ninth_fine_tune_decomposes_only_its_own(world: World, tmp_path: Path) -> None:
    cold = merged(merge_of(world.copied_to(tmp_path / "cold")))
    eight = merge_of(world, NAMES[:8])
    before = kept(world)
    assert set(before) == kept_of(eight, *NAMES[:8])
    assert len(before) == 8 * WEIGHTS
    grown = merge_of(world)
    after = kept(world)
    assert {name: after[name] for name in before} == before, "a decomposition was made again"
    assert set(after) - set(before) == kept_of(grown, NAMES[8])
    assert merged(grown) == cold
    partly = without(world, tmp_path / "partly", "merges")
    for number, path in enumerate(sorted(partly.root.glob("store/bases/*/*"))):
        if number % 3 == 0:
            path.unlink()
    assert merged(merge_of(partly)) == cold, "some kept, some not"
    warm = without(world, tmp_path / "warm", "merges")
    assert merged(merge_of(warm)) == cold
    assert kept(warm).keys() == after.keys()


def test_a_reused_decomposition_needs_no_checkpoint_and_no_shift(world: World) -> None:
    plan = merge_of(world)
    expected = merged(plan)
    shutil.rmtree(world.root / "store" / "merges")
    shutil.rmtree(world.root / "store" / "shifts")
    for weight in plan.decomposed:
        merge_one(plan, weight)
    assert merged(plan) == expected


def test_one_task_less_reuses_the_others(world: World, tmp_path: Path) -> None:
    cold = merged(merge_of(world.copied_to(tmp_path / "cold"), NAMES[1:]))
    merge_of(world)
    before = kept(world)
    shrunk = merge_of(world, NAMES[1:])
    assert kept(world) == before
    assert merged(shrunk) == cold


def test_a_rank_of_the_recipe_is_kept_for_any_number_of_tasks(world: World, tmp_path: Path) -> None:
    method = {"rank": 5}
    cold = merged(merge_of(world.copied_to(tmp_path / "cold"), NAMES[:5], method=method))
    merge_of(world, NAMES[:2], method=method)
    before = kept(world)
    grown = merge_of(world, NAMES[:5], method=method)
    assert set(kept(world)) - set(before) == kept_of(grown, *NAMES[2:5])
    assert merged(grown) == cold


@pytest.mark.parametrize("change", [{"method": {"eigen_exponent": 0.5}}, {"method": {"inter_task": False}}])
def test_settings_that_decompose_nothing_anew(world: World, change: dict[str, object]) -> None:
    one = merge_of(world, NAMES[:3])
    before = kept(world)
    other = merge_of(world, NAMES[:3], **change)
    assert kept(world) == before
    assert other.merge_digest != one.merge_digest


def test_new_proxies_leave_what_they_do_not_touch(world: World) -> None:
    """TSV-M does not look at a fine-tune's inputs."""
    merge_of(world, NAMES[:3])
    before = set(kept(world))
    plan = merge_of(world, NAMES[:3], samples=3)
    essential = [weight for weight, rule in plan.rules.items() if rule == "essential"]
    assert len(set(kept(world)) - before) == 3 * len(essential) < 3 * WEIGHTS


@pytest.mark.parametrize(
    ("size", "count", "rank"),
    [(96, 2, 48), (96, 3, 48), (96, 4, 24), (96, 8, 12), (96, 15, 12), (96, 16, 6), (100, 7, 25), (3, 8, 1)],
)
def test_the_rank_is_shared_up_to_the_next_power_of_two(size: int, count: int, rank: int) -> None:
    assert made_rank(size, count) == rank
    assert esm.kept_rank(size, count, MergeSettings()) <= rank


def test_the_log_says_what_was_reused(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="esm_core")
    merge_of(world, NAMES[:8])
    assert caplog.messages == []
    merge_of(world)
    assert len(caplog.messages) == WEIGHTS
    assert f"{IN_PROJ}: 8 of 9 decompositions were in the store" in caplog.messages


# Keeping none.


def test_nothing_is_kept_where_the_recipe_says_so(world: World, tmp_path: Path) -> None:
    keeping = world.copied_to(tmp_path / "keeping")
    plan = merge_of(world, NAMES[:3], fuse={"keep_bases": False})
    assert kept(world) == {}
    assert basis_folders(plan) == []
    other = merge_of(keeping, NAMES[:3])
    assert merged(plan) == merged(other)
    assert plan.merge_digest == other.merge_digest
    assert plan.identity == other.identity


# Faults.


@pytest.mark.fault
@pytest.mark.parametrize("at", [3, 40, -100, None], ids=["length", "header", "data", "cut"])
def test_a_damaged_decomposition_is_named(world: World, at: int | None) -> None:
    plan = merge_of(world, NAMES[:2])
    file = basis_file(plan, IN_PROJ, "task2")
    data = bytearray(file.read_bytes())
    if at is None:
        data = data[:-8]
    else:
        data[at] ^= 1
    file.write_bytes(bytes(data))
    shutil.rmtree(world.root / "store" / "merges")
    with pytest.raises(IntegrityError, match=rf"{file}: is damaged .*\. Delete it and run again"):
        merge_one(plan, IN_PROJ)
    file.delete()
    merge_one(plan, IN_PROJ)


@pytest.mark.fault
def test_a_decomposition_of_a_newer_format_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Location.parse(str(tmp_path / "part.safetensors"))
    monkeypatch.setattr(bases, "_FORMAT", 3)
    write_basis(file, tsv_m.decompose(torch.eye(4, dtype=torch.float64), 2))
    monkeypatch.undo()
    with pytest.raises(IntegrityError, match="Upgrade esmerge"):
        read_basis(file, "tsv_m")


def counted(*shape: int) -> torch.Tensor:
    return torch.arange(1.0, 1 + math.prod(shape)).reshape(shape)


FIRST_FORMAT: dict[Rule, Part] = {
    "essential": Decomposition(
        counted(6, 2), counted(2, 4) / 8, counted(3).double().flip(0), torch.tensor(7.0).double()
    ),
    "tsv_m": tsv_m.SingularPart(counted(6, 2), counted(2).double().flip(0), counted(2, 4) / 8),
}


@pytest.mark.parametrize("rule", FIRST_FORMAT)
def test_files_of_the_first_format_are_read(rule: Rule, tmp_path: Path) -> None:
    """They carry sha256 digests, and are held to them."""
    old = Location.parse(str(Path(__file__).parent / "bases_of_format_1" / f"{rule}.safetensors"))
    assert b"crc32c" not in old.read_bytes(), "what the first format wrote, not the present one"
    part = read_basis(old, rule)
    assert type(part) is type(FIRST_FORMAT[rule])
    for found, expected in zip(part, FIRST_FORMAT[rule], strict=True):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    data = bytearray(old.read_bytes())
    data[-1] ^= 1
    damaged = Location.parse(str(tmp_path / "part.safetensors"))
    damaged.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match="checksums are not those it was written with"):
        read_basis(damaged, rule)


def test_the_first_esmerge_finds_what_it_looks_for_before_the_format(tmp_path: Path) -> None:
    """Without it, it would call the file damaged instead of newer."""
    file = Location.parse(str(tmp_path / "part.safetensors"))
    write_basis(file, FIRST_FORMAT["tsv_m"])
    facts = json.loads(SafetensorsFile(file).metadata["esmerge"])
    assert facts["sha256"] == {}
    assert facts["format"] == 2


@pytest.mark.fault
@settings(max_examples=200, deadline=None)
@given(bit=st.integers(min_value=0))
def test_no_damaged_bit_goes_unseen(tmp_path_factory: pytest.TempPathFactory, bit: int) -> None:
    folder = Location.parse(str(tmp_path_factory.mktemp("part")))
    write_basis(folder / "whole", FIRST_FORMAT["essential"])
    data = bytearray((folder / "whole").read_bytes())
    place = bit % (8 * len(data))
    data[place // 8] ^= 1 << place % 8
    (folder / "damaged").write_bytes(bytes(data))
    try:
        read = read_basis(folder / "damaged", "essential")
    except IntegrityError:
        return
    # A bit of the header that means nothing, as one that makes a space another blank.
    assert all(torch.equal(*pair) for pair in zip(read, FIRST_FORMAT["essential"], strict=True))


@pytest.mark.fault
def test_what_was_kept_before_a_kill_is_used(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    cold = merged(merge_of(world.copied_to(tmp_path / "cold"), NAMES[:3]))
    left = [13]
    real = bases._crc32c

    def dying(tensor: torch.Tensor) -> int:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return real(tensor)

    monkeypatch.setattr(bases, "_crc32c", dying)
    with pytest.raises(Killed):
        merge_of(world, NAMES[:3])
    monkeypatch.setattr(bases, "_crc32c", real)
    before = kept(world)
    assert 0 < len(before) < 3 * WEIGHTS
    plan = merge_of(world, NAMES[:3])
    assert {name: kept(world)[name] for name in before} == before
    assert merged(plan) == cold


def test_a_frozen_layer_is_kept_too(tmp_path: Path) -> None:
    """No directions at all."""
    file = Location.parse(str(tmp_path / "part.safetensors"))
    zero, inputs = torch.zeros(6, 4, dtype=torch.float64), InputFactor(torch.randn(9, 4).double(), 9)
    for rule, part in (
        ("essential", decompose_update(zero, inputs, 3)),
        ("tsv_m", tsv_m.decompose(zero, 3)),
    ):
        write_basis(file, part)
        read = read_basis(file, rule)  # type: ignore[arg-type]
        assert type(read) is type(part)
        assert all(torch.equal(*pair) for pair in zip(read, part, strict=True))


# Garbage, and S3.


def test_gc_keeps_what_a_version_was_made_from_and_takes_the_rest(make_world: Callable[..., World]) -> None:
    world = make_world("world", tasks=("cats", "dogs", "maps"), test=False)
    first, version = merge_whole(world)
    assert {folder.name for folder in basis_folders(first)} == set((world.store / "bases").children())
    later, keep_one = datetime.now(UTC) + timedelta(days=30), Policy(keep=1)
    assert collect(world.store, keep_one, later).garbage == []
    world.recipe["tasks"] = world.recipe["tasks"][:2]
    second, _ = merge_whole(world)
    garbage = {item.path: item.reason for item in collect(world.store, keep_one, later).garbage}
    gone = {path for path in reachable(first) if path.startswith("bases/")} - set(reachable(second))
    assert len(gone) == 2, "of maps: one of each rule"
    assert gone <= set(garbage)
    assert {garbage[path] for path in gone} == {"no version that stays and no merge needs it"}
    assert not {path for path in garbage if path.startswith("bases/")} - gone
    assert gone <= set(version.manifest["store_paths"])


@pytest.mark.s3
def test_they_are_kept_on_s3(make_world: Callable[..., World], s3: S3Server) -> None:
    world = make_world("world", test=False)
    local = {
        weight: read_update(plan, weight) for plan in [merge_layers(world)] for weight in plan.decomposed
    }
    bucket = s3.bucket()
    world.recipe["store"] = f"{bucket}/store"
    for name in ("base", "cats", "dogs", "maps"):
        (bucket / f"{name}.safetensors").write_bytes((world.root / f"{name}.safetensors").read_bytes())
    for name in ("cats", "dogs", "maps"):
        world.task(name)["checkpoint"] = f"{bucket}/{name}.safetensors"
    two = merge_of(world, ("cats", "dogs"))
    before = (two.store / "bases").entries()
    assert len(before) == 2 * WEIGHTS
    grown = merge_of(world, ("cats", "dogs", "maps"))
    after = (grown.store / "bases").entries()
    assert {name: after[name] for name in before} == before
    assert len(after) == 3 * WEIGHTS
    for weight, update in local.items():
        assert torch.equal(read_update(grown, weight), update)
    victim = basis_file(grown, IN_PROJ, "dogs")
    victim.write_bytes(victim.read_bytes()[:-1])
    grown.layer_folder(IN_PROJ).delete()
    with pytest.raises(IntegrityError, match="is damaged"):
        merge_one(grown, IN_PROJ)


# Precision.


def parts_of(alike: bool, d_out: int, d_in: int, tasks: int = 4, seed: int = 0) -> list[Decomposition]:
    """Of random updates; ``alike``: all tasks but the last have one update, seen by proxies of their own."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    same = normal(d_out, 12) @ normal(12, d_in)
    parts = []
    for task in range(tasks):
        update = same if alike and task < tasks - 1 else normal(d_out, 12) @ normal(12, d_in)
        factor = InputFactor(normal(2 * d_in, d_in), 2 * d_in)
        parts.append(decompose_update(update, factor, d_out // tasks))
    return parts


@pytest.mark.parametrize("alike", [False, True], ids=["updates apart", "updates alike"])
@pytest.mark.parametrize("shape", [(96, 24), (24, 96), (1152, 288)], ids=["tall", "wide", "large"])
def test_parts_in_float32_merge_as_those_in_float64(shape: tuple[int, int], alike: bool) -> None:
    """Also where tasks span the same directions, beside which rounding makes new ones that mean nothing."""
    parts = parts_of(alike, *shape)
    halved = [rounded(part) for part in parts]
    assert {part.basis.dtype for part in halved if isinstance(part, Decomposition)} == {torch.float32}
    exact, found = (bases.fuse(given, MergeSettings()) for given in (parts, halved))
    assert isinstance(exact, esm.EssentialMerge)
    assert isinstance(found, esm.EssentialMerge)
    assert (found.update - exact.update).norm() < 1e-5 * exact.update.norm()
    torch.testing.assert_close(found.overlaps, exact.overlaps, rtol=0, atol=1e-6)


@pytest.mark.parametrize("exponent", [2.0, 4.0])
def test_overlaps_are_numbers_however_steep_the_weights(exponent: float) -> None:
    parts = [rounded(part) for part in parts_of(False, 96, 24)]
    steep = [
        part._replace(eigenvalues=torch.logspace(0, -9, part.eigenvalues.numel()).double()) for part in parts
    ]
    merged = bases.fuse(steep, MergeSettings(eigen_exponent=exponent))
    assert isinstance(merged, esm.EssentialMerge)
    assert torch.isfinite(merged.overlaps).all()
    assert torch.isfinite(merged.update).all()


def test_singular_parts_in_float32_merge_as_those_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    updates = [torch.randn(40, 40, generator=generator, dtype=torch.float64) for _ in range(4)]
    parts = [tsv_m.decompose(update, 10) for update in updates + updates[:1]]
    exact, found = (
        bases.fuse(given, MergeSettings()) for given in (parts, [rounded(part) for part in parts])
    )
    assert isinstance(exact, torch.Tensor)
    assert isinstance(found, torch.Tensor)
    assert (found - exact).norm() < 1e-5 * exact.norm()


def test_matrices_are_kept_in_float32_and_spectra_in_float64(world: World) -> None:
    plan = merge_of(world, NAMES[:2])
    part = read_basis(basis_file(plan, IN_PROJ, NAMES[0]), "essential")
    dtypes = {name: tensor.dtype for name, tensor in part._asdict().items()}
    half, whole = torch.float32, torch.float64
    assert dtypes == {"basis": half, "coordinates": half, "eigenvalues": whole, "norm": whole}
