"""Landing: what is checked before anything is uploaded, what is uploaded, and numbers of their own."""

import hashlib
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from landed import landing
from PIL import Image
from safetensors.torch import load_file, save_file
from services import S3Server
from torch import nn
from world import World, add_validation

from esm_core import InputError
from esm_core.claims import Claim
from esm_core.images import open_images, samples_digest
from esm_core.recipe import ZeroShotSpec
from esm_core.registry import land, read_finetune, tasks, versions
from esm_core.registry import landing as module
from esm_core.storage import Location


@pytest.fixture
def registry(tmp_path: Path) -> Location:
    return Location.parse(str(tmp_path / "registry"))


@pytest.fixture
def shard(world: World, tmp_path: Path) -> Path:
    """The proxies of cats as a tar."""
    path = tmp_path / "shard-000.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(world.root / "cats/proxy", "cats")
    return path


def problems_of(registry: Location, world: World, name: str = "cats", **others: object) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        land(registry, landing(world, name, **others))
    assert registry.files() == [], "something was uploaded"
    return caught.value.problems


def test_what_lands_is_all_a_merge_needs(world: World, registry: Location) -> None:
    add_validation(world)
    landed = land(registry, landing(world, "cats", note="first try"))
    assert (landed.version, landed.url, landed.fresh) == ("v000001", f"{registry}/cats/v000001", True)
    assert (tasks(registry), versions(registry, "cats")) == (["cats"], [1])
    found = read_finetune(registry, "cats", 1)
    assert (found.checkpoint, found.proxy, found.test, found.head) == (
        "checkpoint.safetensors",
        "proxy",
        "test",
        "head.safetensors",
    )
    assert (found.validation, found.note) == ("validation", "first try")
    folder = Location(landed.url)
    assert set(found.files) == set(folder.files()) - {"claim.json", "finetune.yaml"}
    for path, facts in found.files.items():
        content = (folder / path).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (facts.bytes, facts.sha256)
    assert (folder / "checkpoint.safetensors").read_bytes() == (world.root / "cats.safetensors").read_bytes()


def test_copied_images_are_the_same_samples(world: World, registry: Location, shard: Path) -> None:
    land(registry, landing(world, "cats", proxy=Location.parse(str(shard))))
    for name, original in (("proxy", shard), ("test", world.root / "cats/test")):
        copied = open_images(registry / "cats/v000001" / name)
        before = open_images(Location.parse(str(original)))
        assert samples_digest(copied.read_all()) == samples_digest(before.read_all())


def test_images_can_be_pointed_at(world: World, registry: Location) -> None:
    land(registry, landing(world, "cats", copy=False))
    found = read_finetune(registry, "cats", 1)
    assert (found.proxy, found.test) == (f"file://{world.root}/cats/proxy", f"file://{world.root}/cats/test")
    assert set(found.files) == {"checkpoint.safetensors", "head.safetensors"}


@pytest.mark.s3
def test_images_on_s3_are_pointed_at_unless_a_copy_is_asked_for(
    world: World, registry: Location, s3: S3Server
) -> None:
    images = s3.bucket() / "cats"
    for path in (world.root / "cats/proxy").iterdir():
        (images / path.name).write_bytes(path.read_bytes())
    land(registry, landing(world, "cats", proxy=images))
    land(registry, landing(world, "cats", proxy=images, copy=True))
    assert [read_finetune(registry, "cats", number).proxy for number in (1, 2)] == [images.url, "proxy"]


@pytest.mark.s3
def test_a_registry_on_s3(world: World, s3: S3Server) -> None:
    registry = s3.bucket() / "registry"
    landed = land(registry, landing(world, "cats"))
    assert (landed.url, versions(registry, "cats")) == (f"{registry}/cats/v000001", [1])
    assert not land(registry, landing(world, "cats")).fresh
    found = read_finetune(registry, "cats", 1)
    assert {path: (Location(landed.url) / path).sha256() for path in found.files} == {
        path: facts.sha256 for path, facts in found.files.items()
    }


def test_the_same_content_lands_once(world: World, registry: Location) -> None:
    land(registry, landing(world, "cats"))
    again = land(registry, landing(world, "cats", note="another note is no other content"))
    assert (again.version, again.fresh) == ("v000001", False)
    assert land(registry, landing(world, "cats"), force=True).version == "v000002"
    image = world.root / "cats/proxy/0.png"
    Image.open(image).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(image)
    assert land(registry, landing(world, "cats")).version == "v000003"
    assert land(registry, landing(world, "cats", test=None)).version == "v000004"
    assert land(registry, landing(world, "cats", activation="gelu", test=None)).version == "v000005"


def _land_together(world: World, registry: Location, people: int) -> list[str]:
    def one(number: int) -> str:
        return land(registry, landing(world, "cats", note=f"by {number}"), force=True).version

    with ThreadPoolExecutor(people) as pool:
        return sorted(pool.map(one, range(people)))


def test_sixteen_people_who_land_at_once_get_sixteen_versions(world: World, registry: Location) -> None:
    assert _land_together(world, registry, 16) == [f"v{number:06d}" for number in range(1, 17)]
    notes = {read_finetune(registry, "cats", number).note for number in versions(registry, "cats")}
    assert notes == {f"by {number}" for number in range(16)}


@pytest.mark.s3
def test_sixteen_people_who_land_at_once_on_s3(world: World, s3: S3Server) -> None:
    registry = s3.bucket()
    assert _land_together(world, registry, 16) == [f"v{number:06d}" for number in range(1, 17)]
    assert versions(registry, "cats") == list(range(1, 17))


# Checkpoints.


def test_a_state_dict_of_torch_lands_as_it_is_and_a_pickled_model_does_not(
    world: World, registry: Location
) -> None:
    model = world.root / "model.pt"
    torch.save(nn.Linear(2, 2), model)
    (problem,) = problems_of(registry, world, checkpoint=Location.parse(str(model)))
    assert problem.startswith(
        f"checkpoint: file://{model}: holds a pickled object, which esmerge never loads"
    )
    torch.save(load_file(world.root / "cats.safetensors"), model)
    land(registry, landing(world, "cats", checkpoint=Location.parse(str(model))))
    assert (registry / "cats/v000001/checkpoint.pt").read_bytes() == model.read_bytes()


def test_the_activation_beside_a_checkpoint_is_kept(world: World, registry: Location) -> None:
    folder = world.root / "hub"
    folder.mkdir()
    (world.root / "cats.safetensors").rename(folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text('{"model_cfg": {"quick_gelu": true}}')
    place = Location.parse(str(folder))
    (problem,) = problems_of(registry, world, checkpoint=place, activation="gelu")
    assert "gelu is stated, but open_clip_config.json beside it says quick_gelu" in problem
    config = f"file://{world.root}/config.json"
    (problem,) = problems_of(registry, world, checkpoint=place, architecture=config)
    assert "was trained with quick_gelu, but the architecture" in problem
    land(registry, landing(world, "cats", checkpoint=place))
    assert read_finetune(registry, "cats", 1).activation == "quick_gelu"


def test_a_checkpoint_is_compared_with_its_base(world: World, registry: Location) -> None:
    base = Location.parse(str(world.root / "base.safetensors"))
    (problem,) = problems_of(registry, world, checkpoint=base, base=base)
    assert "equals the base" in problem
    tower = load_file(world.root / "cats.safetensors")
    tower["visual.proj"] = torch.zeros(32, 4)
    tower["visual.conv1.weight"][0, 0, 0, 0] = torch.nan
    save_file(tower, world.root / "cats.safetensors")
    problems = problems_of(registry, world, base=base, head=None, test=None)
    assert len(problems) == 2
    assert "visual.proj differs in shape from the base" in problems[0]
    assert "NaN or Inf in 1 weight(s): visual.conv1.weight" in problems[1]
    (problem, *_) = problems_of(
        registry, world, architecture=f"file://{world.root}/config.json", head=None, test=None
    )
    assert "1 tensor(s) are not those of" in problem
    assert "visual.proj: (32, 4), expected (32, 16)" in problem


# Images and heads.


def test_every_problem_is_told_at_once(world: World, registry: Location) -> None:
    (world.root / "cats.safetensors").write_bytes(b"x" * 100)
    (world.root / "cats/proxy/3.png").write_bytes(b"no image")
    (world.root / "cats/test/class9").mkdir()
    (world.root / "cats/test/class0/0.png").rename(world.root / "cats/test/class9/0.png")
    problems = problems_of(registry, world, task="../cats", validation=Location("file:///nowhere"))
    starts = [problem.split(":")[0] for problem in problems]
    assert starts == ["task", "checkpoint", "proxy", "validation", "test"]
    assert "'3.png' cannot be decoded" in problems[2]
    assert "has 4 class folders, but the head has 3 classes" in problems[4]


def test_a_head_must_fit(world: World, registry: Location) -> None:
    save_file({"weight": torch.zeros(3, 5)}, world.root / "cats-head.safetensors")
    (problem,) = problems_of(registry, world)
    assert "expected `weight` of shape (classes, 16)" in problem
    save_file({"weight": torch.full((3, 16), torch.inf)}, world.root / "cats-head.safetensors")
    (problem,) = problems_of(registry, world)
    assert "NaN or Inf in weight" in problem
    (problem,) = problems_of(registry, world, head=None)
    assert "images are given without a head" in problem
    (problem,) = problems_of(registry, world, zero_shot=ZeroShotSpec(classes=["a", "b", "c"]))
    assert "give a head or class names, not both" in problem


def test_class_names_can_be_given_instead_of_a_head(world: World, registry: Location) -> None:
    names = ZeroShotSpec(classes=["a cat", "a dog", "a map"])
    land(registry, landing(world, "cats", head=None, zero_shot=names))
    assert read_finetune(registry, "cats", 1).zero_shot == names


def test_an_input_that_changes_while_it_lands_is_refused(
    world: World, registry: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = module.claim_number

    def training_goes_on(folder: Location) -> Claim:
        tower = load_file(world.root / "cats.safetensors")
        save_file({name: tensor + 1 for name, tensor in tower.items()}, world.root / "cats.safetensors")
        return claim(folder)

    monkeypatch.setattr(module, "claim_number", training_goes_on)
    with pytest.raises(InputError, match=r"cats\.safetensors: changed while it landed"):
        land(registry, landing(world, "cats"))
    assert tasks(registry) == []
    monkeypatch.undo()
    assert land(registry, landing(world, "cats")).version == "v000002"
