"""Bad input: one clear message on standard error, exit code 2, no traceback, nothing published."""

import io
import json
import os
import pickle
import re
import shutil
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load, save_file
from services import Command, Outcome, S3Server
from world import World, add_validation, build_world, write_image

from deployments.local import run_merge
from esm_core.checkpoints import SafetensorsFile
from esm_core.storage_s3 import SteadyS3

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]

Tensors = dict[str, torch.Tensor]
Spoil = Callable[[World], None]
Refused = Callable[..., str]

BLOCK = "visual.transformer.resblocks.0."
C_FC = f"{BLOCK}mlp.c_fc.weight"


def message(outcome: Outcome) -> str:
    """The one message of a refusal on one line; progress may stand before it, nothing after."""
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    _, *messages = re.split(r"(?m)^esmerge: ", outcome.err)
    assert len(messages) == 1, outcome.err
    return " ".join(messages[0].split())


def versions(world: World) -> list[Path]:
    return sorted((world.root / "store").glob("artifacts/*/v*/manifest.json"))


@pytest.fixture
def refused(esmerge: Command) -> Refused:
    """Asserts that commands refuse the recipe with a message holding ``named``, and publish nothing."""

    def check(world: World, *named: str, commands: tuple[str, ...] = ("plan", "merge")) -> str:
        before, said = versions(world), ""
        for command in commands:
            said = message(esmerge(command, world.recipe_path))
            for text in named:
                assert text in said, f"{command}: {text!r} is not in {said!r}"
        assert versions(world) == before
        return said

    return check


@pytest.fixture(scope="module")
def merged_once(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> Path:
    world = build_world(tmp_path_factory.mktemp("merged") / "world")
    run_merge(str(world.recipe_path), 2)
    return world.root


@pytest.fixture
def merged(merged_once: Path, world: World) -> World:
    """A world that was merged once; its store may be damaged."""
    shutil.copytree(merged_once / "store", world.root / "store")
    return world


def forget(world: World, *folders: str) -> None:
    for folder in folders:
        shutil.rmtree(world.root / "store" / folder)


def set_base(**values: Any) -> Spoil:
    return lambda world: world.recipe["base"].update(values)


def set_dogs(**values: Any) -> Spoil:
    return lambda world: world.task("dogs").update(values)


def set_recipe(**values: Any) -> Spoil:
    return lambda world: world.recipe.update(values)


def edit(world: World, name: str, change: Callable[[Tensors], None]) -> None:
    """Rewrite a safetensors file of the world with its tensors changed."""
    path = world.root / f"{name}.safetensors"
    tensors = load(path.read_bytes())
    change(tensors)
    save_file(tensors, path)


def fill(name: str, weight: str, value: float) -> Spoil:
    """Put ``value`` into one element of one weight."""
    return lambda world: edit(world, name, lambda tensors: tensors[weight].view(-1)[3:4].fill_(value))


KEPT: list[dict[Any, Any]] = []


def forget_filesystems(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have S3 filesystems made anew from the environment until the test ends.

    Those made are kept: one that is collected has a tenth of a second to close its connections, and
    on a busy machine warns that it could not.
    """
    KEPT.append({})
    monkeypatch.setattr(SteadyS3, "_cache", KEPT[-1])


@pytest.fixture
def new_filesystems(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_filesystems(monkeypatch)


# --- what is missing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "who"),
    [
        pytest.param(set_base(checkpoint="nowhere"), "base", id="base"),
        pytest.param(set_base(architecture="nowhere.json"), "base", id="architecture"),
        pytest.param(set_dogs(checkpoint="nowhere"), "task dogs", id="fine-tune"),
        pytest.param(set_dogs(proxy="nowhere"), "task dogs", id="proxy folder"),
        pytest.param(set_dogs(test="nowhere"), "task dogs: test", id="test folder"),
        pytest.param(set_dogs(validation="nowhere"), "task dogs: validation", id="validation folder"),
        pytest.param(set_dogs(head="nowhere"), "task dogs", id="head"),
    ],
)
def test_what_is_missing_is_named(world: World, refused: Refused, spoil: Spoil, who: str) -> None:
    spoil(world)
    refused(world, f"{who}: ", f"{world.root}/nowhere", "no such file")


NOWHERE = "s3://no-such-bucket-7/nowhere"


@pytest.mark.s3
@pytest.mark.parametrize(
    ("spoil", "who", "why"),
    [
        pytest.param(set_base(checkpoint=NOWHERE), "base", "no such file", id="base"),
        pytest.param(set_dogs(checkpoint=NOWHERE), "task dogs", "no such file", id="fine-tune"),
        pytest.param(set_dogs(proxy=NOWHERE), "task dogs", "NoSuchBucket", id="proxy folder"),
    ],
)
@pytest.mark.usefixtures("s3")
def test_a_bucket_that_is_missing_is_named(
    world: World, refused: Refused, spoil: Spoil, who: str, why: str
) -> None:
    spoil(world)
    refused(world, f"{who}: ", NOWHERE, why)


class NoSuchBucket(BaseHTTPRequestHandler):
    """Answers as AWS does; the server of the other tests makes a bucket when it is written to."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b"" if self.command == "HEAD" else b"<Error><Code>NoSuchBucket</Code></Error>"
        self.send_response(404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = answer

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.mark.s3
@pytest.mark.usefixtures("s3")
def test_a_store_in_a_bucket_that_is_missing_is_named(
    world: World, refused: Refused, monkeypatch: pytest.MonkeyPatch, new_filesystems: None
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), NoSuchBucket) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        world.recipe["store"] = "s3://no-such-bucket-7/store"
        refused(world, "store: s3://no-such-bucket-7/store", "NoSuchBucket", commands=("merge",))
        server.shutdown()


@pytest.mark.s3
@pytest.mark.usefixtures("s3")
def test_a_recipe_in_a_bucket_that_is_missing_is_named(esmerge: Command) -> None:
    assert "s3://no-such-bucket-7/r.yaml" in message(esmerge("merge", "s3://no-such-bucket-7/r.yaml"))


@pytest.fixture
def wrong_keys(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it to lose access to S3 until the test ends."""

    def lose() -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
        forget_filesystems(monkeypatch)

    return lose


@pytest.mark.s3
@pytest.mark.parametrize("field", ["checkpoint", "proxy", "head"])
def test_an_input_behind_wrong_credentials_is_named(
    world: World, refused: Refused, s3: S3Server, wrong_keys: Callable[[], None], field: str
) -> None:
    bucket = s3.bucket()
    (bucket / "secret" / "0.png").write_bytes((world.root / "dogs/proxy/0.png").read_bytes())
    world.task("dogs")[field] = f"{bucket}/secret"
    wrong_keys()
    said = refused(world, "task dogs: ", f"{bucket}/secret", "access refused", "AWS")
    assert "not-the-secret" not in said


@pytest.mark.s3
def test_a_store_behind_wrong_credentials_is_named(
    world: World, refused: Refused, s3: S3Server, wrong_keys: Callable[[], None]
) -> None:
    world.recipe["store"] = f"{s3.bucket()}/store"
    wrong_keys()
    refused(world, f"{world.recipe['store']}", "store: ", "access refused", "AWS")


# --- checkpoint files --------------------------------------------------------------------------------


def cut(length: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:length]


@pytest.mark.parametrize("role", ["base", "dogs", "dogs-head"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(cut(-100), "is truncated: its header promises", id="cut in the data"),
        pytest.param(cut(40), "is truncated: its header promises", id="cut in the header"),
        pytest.param(cut(5), "is not a safetensors file", id="five bytes"),
        pytest.param(cut(0), "Copy or download it again", id="empty"),
        pytest.param(lambda data: data + b"more", "4 bytes after its last tensor", id="too long"),
        pytest.param(lambda _: b"\x07garbage" * 99, "is not a safetensors file", id="garbage"),
        pytest.param(lambda _: b"<!DOCTYPE html>", "looks like a web page", id="web page"),
        pytest.param(
            lambda _: b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull", id="LFS pointer"
        ),
    ],
)
def test_a_damaged_safetensors_file_is_named(
    world: World, refused: Refused, role: str, change: Callable[[bytes], bytes], said: str
) -> None:
    path = world.root / f"{role}.safetensors"
    path.write_bytes(change(path.read_bytes()))
    refused(world, "base: " if role == "base" else "task dogs: ", str(path), said)


def torch_bytes(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param(b"\x07garbage" * 99, "is not a checkpoint", id="garbage"),
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(torch_bytes({"weight": torch.ones(99)})[:500], "is damaged", id="truncated zip"),
        pytest.param(torch_bytes([1, 2]), "holds no named tensors", id="list"),
        pytest.param(torch_bytes({"weight": torch.ones(3)}), "holds no vision tower", id="other names"),
    ],
)
def test_a_pt_file_that_is_no_vision_tower_is_named(
    world: World, refused: Refused, data: bytes, said: str
) -> None:
    (world.root / "dogs.pt").write_bytes(data)
    world.task("dogs")["checkpoint"] = "dogs.pt"
    refused(world, "task dogs: ", f"{world.root}/dogs.pt", said)


class Bomb:
    """Unpickling this makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "dump",
    [
        pytest.param(pickle.dumps, id="pickle"),
        pytest.param(torch_bytes, id="torch"),
        pytest.param(lambda bomb: torch_bytes({"w": torch.ones(2), "x": bomb}), id="beside a tensor"),
        pytest.param(lambda bomb: torch_bytes(bomb, _use_new_zipfile_serialization=False), id="old torch"),
    ],
)
@pytest.mark.parametrize("field", ["checkpoint", "head"])
def test_a_pickled_object_is_refused_and_never_run(
    world: World, refused: Refused, esmerge: Command, dump: Callable[[Bomb], bytes], field: str
) -> None:
    ran = world.root / "ran"
    (world.root / "dogs.pt").write_bytes(dump(Bomb(ran)))
    world.task("dogs")[field] = "dogs.pt"
    refused(world, "task dogs: ", f"{world.root}/dogs.pt", "holds a pickled object", "esmerge convert")
    assert not ran.exists()
    # The bomb is real: the one command that is allowed to sets it off.
    esmerge("convert", world.root / "dogs.pt", world.root / "out.safetensors")
    assert ran.exists()


def test_a_whole_module_is_refused_until_it_is_converted(
    world: World, refused: Refused, esmerge: Command
) -> None:
    module = torch.nn.Linear(16, 3)
    torch.save(module, world.root / "head.pt")
    world.task("dogs")["head"] = "head.pt"
    said = refused(world, "task dogs: ", f"{world.root}/head.pt", "esmerge convert")
    converted = world.root / "converted.safetensors"
    source, target = re.findall(r"esmerge convert (\S+) (\S+)", said)[0]
    assert esmerge("convert", source, target.replace("OUT", str(world.root / "converted"))).code == 0
    world.task("dogs")["head"] = converted.name
    assert esmerge("plan", world.recipe_path).code == 0


# --- fine-tunes and bases that do not fit ------------------------------------------------------------


def narrow(tensors: Tensors) -> None:
    for name, value in tensors.items():
        tensors[name] = value[..., : value.shape[-1] // 2].contiguous()


def drop(tensors: Tensors) -> None:
    for name in [name for name in tensors if ".resblocks.1." in name]:
        del tensors[name]


def add(tensors: Tensors) -> None:
    for number in range(12):
        tensors[f"visual.adapter.{number:02}"] = torch.zeros(2)


def halve(tensors: Tensors) -> None:
    for name, value in tensors.items():
        tensors[name] = value.half()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param(
            narrow, ("32 tensors (visual.class_embedding, ", ", ...)", "shape", "expected (32,)"), id="shapes"
        ),
        pytest.param(
            lambda t: t.update({C_FC: torch.zeros(8, 8)}),
            (f"{C_FC} differs in shape", "(8, 8), expected (128, 32)"),
            id="one shape",
        ),
        pytest.param(
            drop, ("12 tensors (visual.transformer.resblocks.1.", ", ...)", "missing"), id="missing"
        ),
        pytest.param(lambda t: t.pop(C_FC), (f"{C_FC} of the base is missing",), id="one missing"),
        pytest.param(
            add,
            ("12 tensors (visual.adapter.00, visual.adapter.01, visual.adapter.02, ...)", "not in the base"),
            id="extra",
        ),
        pytest.param(
            halve, ("32 tensors", "dtype", "torch.float16, expected torch.float32", "precision"), id="dtypes"
        ),
    ],
)
def test_a_fine_tune_that_does_not_fit_the_base_is_named(
    world: World, refused: Refused, change: Callable[[Tensors], None], named: tuple[str, ...]
) -> None:
    edit(world, "dogs", change)
    said = refused(world, "task dogs: ", f"{world.root}/dogs.safetensors", *named)
    assert "task cats" not in said
    assert len(said) < 700


def test_a_fine_tune_is_told_all_that_differs_at_once(world: World, refused: Refused) -> None:
    edit(world, "dogs", halve)
    edit(world, "dogs", add)
    edit(world, "dogs", lambda tensors: tensors.pop(C_FC))
    refused(world, "3 problems", f"{C_FC} of the base is missing", "12 tensors", "dtype")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param({"layers": 3}, ("12 tensors (", ", ...)", "missing"), id="more layers"),
        pytest.param({"layers": 1}, ("12 tensors (", "not part of"), id="fewer layers"),
        pytest.param({"width": 64}, ("tensors (", "not shaped as in", "expected (64,"), id="width"),
        pytest.param({"patch_size": 4}, ("visual.conv1.weight", "(32, 3, 8, 8), expected"), id="patches"),
    ],
)
def test_a_base_that_does_not_fit_the_architecture_is_named(
    world: World, refused: Refused, change: dict[str, int], named: tuple[str, ...]
) -> None:
    path = world.root / "config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["vision_cfg"] |= change
    path.write_text(json.dumps(config))
    refused(world, "base: ", f"{world.root}/base.safetensors", f"{path}", *named)


def test_an_unknown_architecture_is_named_with_those_alike(world: World, refused: Refused) -> None:
    world.recipe["base"]["architecture"] = "ViT-B-23"
    refused(world, "base.architecture", "'ViT-B-23'", "ViT-B-32", "list_models")


def test_an_architecture_left_out_is_asked_for(world: World, refused: Refused) -> None:
    del world.recipe["base"]["architecture"]
    refused(world, "base.architecture is not set", "open_clip_config.json", "ViT-B-32")


@pytest.mark.parametrize(
    "config",
    [
        pytest.param('{"model_cfg": {', id="cut short"),
        pytest.param("[" * 100_000, id="too deep"),
        pytest.param("[1]", id="list"),
        pytest.param("{}", id="no model_cfg"),
        pytest.param('{"model_cfg": {"embed_dim": 16, "text_cfg": {}}}', id="no vision_cfg"),
        pytest.param('{"model_cfg": {"embed_dim": 16, "text_cfg": 5, "vision_cfg": {}}}', id="text_cfg"),
        pytest.param(
            '{"model_cfg": {"embed_dim": 16, "text_cfg": {}, "vision_cfg": {"depth": 3}}}', id="unknown key"
        ),
        pytest.param(
            '{"model_cfg": {"embed_dim": 16, "text_cfg": {}, "vision_cfg": {}}, "preprocess_cfg": [1]}',
            id="preprocess_cfg",
        ),
        pytest.param(
            '{"model_cfg": {"embed_dim": 16, "text_cfg": {}, "vision_cfg": {}}, '
            '"preprocess_cfg": {"colour": 1}}',
            id="preprocess key",
        ),
    ],
)
def test_a_broken_architecture_file_is_named(world: World, refused: Refused, config: str) -> None:
    (world.root / "config.json").write_text(config)
    refused(world, "base: ", f"{world.root}/config.json")


# --- activation functions ----------------------------------------------------------------------------


def as_hf(tensors: Tensors) -> Tensors:
    """An open_clip tower under the names of transformers' CLIPVisionModelWithProjection."""
    plain = {
        "class_embedding": "embeddings.class_embedding",
        "conv1.weight": "embeddings.patch_embedding.weight",
        "positional_embedding": "embeddings.position_embedding.weight",
    }
    parts = {"attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    parts |= {"ln_1": "layer_norm1", "ln_2": "layer_norm2"}
    found: Tensors = {}
    for full, value in tensors.items():
        name = full.removeprefix("visual.")
        name = name.replace("ln_pre", "pre_layrnorm").replace("ln_post", "post_layernorm")
        if name == "proj":
            found["visual_projection.weight"] = value.T.contiguous()
            continue
        block = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)", name)
        if block is None:
            found[f"vision_model.{plain.get(name, name)}"] = value
        elif block[2] == "attn.in_proj":
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                key = f"vision_model.encoder.layers.{block[1]}.self_attn.{letter}_proj.{block[3]}"
                found[key] = part.clone()
        else:
            found[f"vision_model.encoder.layers.{block[1]}.{parts[block[2]]}.{block[3]}"] = value
    return found


def write_hf(world: World, hidden_act: str) -> None:
    folder = world.root / "dogs-hf"
    folder.mkdir(exist_ok=True)
    save_file(as_hf(load((world.root / "dogs.safetensors").read_bytes())), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"hidden_act": hidden_act}))
    world.task("dogs")["checkpoint"] = "dogs-hf"


def test_another_activation_in_an_hf_folder_is_named(
    world: World, refused: Refused, esmerge: Command
) -> None:
    write_hf(world, "quick_gelu")
    refused(world, "task dogs: ", f"{world.root}/dogs-hf", "trained with quick_gelu", "config.json", "gelu")
    write_hf(world, "swish")
    refused(world, "task dogs: ", f"{world.root}/dogs-hf/config.json", "hidden_act", "'swish'")
    write_hf(world, "gelu")
    assert esmerge("plan", world.recipe_path).code == 0


def test_a_broken_config_beside_an_hf_checkpoint_is_named(world: World, refused: Refused) -> None:
    write_hf(world, "gelu")
    (world.root / "dogs-hf" / "config.json").write_text('{"hidden_act": ')
    refused(world, "task dogs: ", f"{world.root}/dogs-hf/config.json", "not valid JSON")


@pytest.mark.parametrize(("spoil", "who"), [(set_base, "base"), (set_dogs, "task dogs")])
def test_another_activation_in_the_recipe_is_named(
    world: World, refused: Refused, spoil: Callable[..., Spoil], who: str
) -> None:
    spoil(activation="quick_gelu")(world)
    refused(world, f"{who}: ", "trained with quick_gelu", "the recipe", "uses gelu", "-quickgelu")


def test_a_recipe_that_contradicts_the_file_about_the_activation_is_named(
    world: World, refused: Refused
) -> None:
    write_hf(world, "quick_gelu")
    world.task("dogs")["activation"] = "gelu"
    refused(world, "task dogs: ", "dogs-hf", "the recipe says gelu", "config.json beside it says quick_gelu")


# --- what only contents tell -------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("name", ["base", "dogs"])
def test_a_weight_that_is_not_finite_is_named(
    world: World, refused: Refused, name: str, value: float
) -> None:
    fill(name, C_FC, value)(world)
    refused(world, name, f"{world.root}/{name}.safetensors", "NaN or Inf", C_FC, commands=("merge",))


def test_an_update_of_zero_is_named(world: World, refused: Refused) -> None:
    shutil.copy(world.root / "base.safetensors", world.root / "dogs.safetensors")
    refused(world, "dogs", "dogs.safetensors", "update is zero", commands=("merge",))


def test_every_fine_tune_with_unusable_contents_is_named_at_once(world: World, refused: Refused) -> None:
    shutil.copy(world.root / "base.safetensors", world.root / "dogs.safetensors")
    fill("cats", C_FC, float("nan"))(world)
    shutil.copy(world.root / "dogs.safetensors", world.root / "maps.safetensors")
    said = refused(world, "cats.safetensors", "dogs.safetensors", "maps.safetensors", commands=("merge",))
    assert said.count("update is zero") == 2


@pytest.mark.parametrize("form", ["safetensors", "pt", "hf"])
def test_identical_updates_are_named_whatever_the_file_format(
    world: World, refused: Refused, form: str
) -> None:
    tensors = load((world.root / "cats.safetensors").read_bytes())
    if form == "safetensors":
        shutil.copy(world.root / "cats.safetensors", world.root / "dogs.safetensors")
    elif form == "pt":
        torch.save({"state_dict": tensors}, world.root / "dogs.pt")
        world.task("dogs")["checkpoint"] = "dogs.pt"
    else:
        save_file(tensors, world.root / "dogs.safetensors")
        write_hf(world, "gelu")
    # Twice, since the second run finds both inspected already.
    refused(world, "tasks cats and dogs have identical updates", commands=("merge", "merge", "plan"))


@pytest.mark.parametrize(
    ("weight", "layer"), [("mlp.c_fc.weight", "mlp.c_proj.weight"), ("ln_1.weight", "attn.in_proj_weight")]
)
def test_an_activation_that_overflows_names_task_and_layer(
    world: World, refused: Refused, weight: str, layer: str
) -> None:
    edit(world, "dogs", lambda tensors: tensors[BLOCK + weight].fill_(1e38))
    said = refused(world, "Task dogs", f"{BLOCK}{layer}", "NaN or Inf", commands=("merge",))
    assert "try collect.precision: float32" not in said, "that is the precision it overflowed in"


# --- images ------------------------------------------------------------------------------------------


def test_an_empty_proxy_folder_is_named(world: World, refused: Refused) -> None:
    folder = world.root / "dogs" / "proxy"
    for path in folder.iterdir():
        path.unlink()
    refused(world, "task dogs: ", str(folder), "holds no images")


def test_fewer_proxies_than_asked_are_counted_for_every_task(world: World, refused: Refused) -> None:
    world.recipe["samples"] = 7
    (world.root / "cats" / "proxy" / "6.png").write_bytes((world.root / "cats/proxy/0.png").read_bytes())
    said = refused(world, "task dogs: ", "task maps: ", "holds 6 images, but 7", "lower `samples`")
    assert "task cats" not in said


def corrupt(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def test_corrupt_proxies_of_two_tasks_are_named_in_one_error(world: World, refused: Refused) -> None:
    world.recipe["samples"] = 6
    corrupt(world.root / "cats" / "proxy" / "3.png")
    (world.root / "maps" / "proxy" / "5.png").write_bytes(b"no image")
    said = refused(world, "cats/proxy", "'3.png'", "maps/proxy", "'5.png'", "cannot be", commands=("merge",))
    assert "dogs" not in said


@pytest.mark.parametrize("data", [None, b"", b"no image"], ids=["cut short", "empty", "text"])
def test_a_corrupt_test_image_is_named(world: World, refused: Refused, data: bytes | None) -> None:
    path = world.root / "dogs" / "test" / "class1" / "4.png"
    path.write_bytes(path.read_bytes()[:60] if data is None else data)
    said = refused(world, "dogs/test", "'class1/4.png'", "cannot be decoded", commands=("merge",))
    assert said.count("cannot be decoded") == 1


def test_more_class_folders_than_the_head_has_classes_are_counted(world: World, refused: Refused) -> None:
    write_image(world.root / "dogs" / "test" / "class3" / "0.png", seed=1)
    refused(world, "task dogs: test: ", f"{world.root}/dogs/test", "4 class folders", "3 classes")


def test_a_label_beyond_the_head_is_named(world: World, refused: Refused) -> None:
    image = (world.root / "dogs/proxy/0.png").read_bytes()
    table = pa.table({"image": [image, image], "label": [0, 7]})
    pq.write_table(table, world.root / "test.parquet")
    world.task("dogs")["test"] = "test.parquet"
    refused(world, "task dogs", "test.parquet", "labels must be 0 to 2", "7", commands=("merge",))


def test_test_images_without_labels_are_named(world: World, refused: Refused) -> None:
    world.task("dogs")["test"] = "dogs/proxy"
    said = refused(world, "task dogs", "dogs/proxy", "label", commands=("merge",))
    assert "None" not in said


def test_test_images_without_a_head_are_named(world: World, refused: Refused) -> None:
    del world.task("dogs")["head"]
    refused(world, "task dogs: test: ", "add head or zero_shot")


# --- heads -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        pytest.param({"weight": torch.ones(3, 8)}, "`weight` (3, 8), expected", id="width"),
        pytest.param({"weight": torch.ones(16)}, "`weight` (16,), expected", id="dimensions"),
        pytest.param({"kernel": torch.ones(3, 16)}, "no `weight`, expected", id="name"),
        pytest.param(
            {"weight": torch.ones(3, 16), "bias": torch.ones(4)}, "`bias` is (4,), expected (3,)", id="bias"
        ),
    ],
)
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_head_that_does_not_fit_is_named(
    world: World, refused: Refused, tensors: Tensors, said: str, suffix: str
) -> None:
    path = world.root / f"head.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(tensors, path)
    world.task("dogs")["head"] = path.name
    refused(world, "task dogs: head: ", f"{path}", said)


def test_a_head_saved_by_torch_is_published_as_what_its_name_says(world: World, esmerge: Command) -> None:
    tensors = load((world.root / "dogs-head.safetensors").read_bytes())
    torch.save(tensors, world.root / "head.pt")
    world.task("dogs")["head"] = "head.pt"
    done = esmerge("merge", world.recipe_path)
    assert done.code == 0, done.err
    published = world.store / "artifacts" / "pets" / "v000001" / "heads" / "dogs.safetensors"
    assert torch.equal(SafetensorsFile(published).read("weight"), tensors["weight"])


def test_zero_shot_on_a_base_without_text_tower_is_named(world: World, refused: Refused) -> None:
    del world.task("dogs")["head"]
    world.task("dogs")["zero_shot"] = {"classes": ["a", "b", "c"]}
    refused(world, "task dogs: zero_shot: ", "text tower")


# --- recipes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("name: [", "is not valid YAML", id="not YAML"),
        pytest.param("- name", "is a YAML mapping", id="a list"),
        pytest.param("", "is a YAML mapping", id="empty"),
        pytest.param("name: a\nname: b", "'name' is given twice", id="a key twice"),
        pytest.param("? [a, b]\n: c", "YAML", id="a list as a key"),
        pytest.param("a: !!python/object/apply:os.getcwd []", "is not valid YAML", id="a Python object"),
        pytest.param("[" * 5000, "YAML", id="too deep"),
        pytest.param("a: 2024-99-99", "is not valid YAML", id="an impossible date"),
        pytest.param("a: \x00", "is not valid YAML", id="a control character"),
    ],
)
def test_a_recipe_that_is_no_recipe_is_named(esmerge: Command, tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    for command in ("plan", "merge"):
        found = message(esmerge(command, path))
        assert f"{path}: " in found
        assert said in found


def test_a_recipe_that_is_missing_or_unreadable_is_named(esmerge: Command, tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for command in ("plan", "merge"):
        assert f"{tmp_path}/none.yaml: no such file" in message(esmerge(command, tmp_path / "none.yaml"))
        assert f"{tmp_path}: " in message(esmerge(command, tmp_path))
        assert "binary.yaml: is not a text file" in message(esmerge(command, tmp_path / "binary.yaml"))
        assert "gs:// is not supported" in message(esmerge(command, "gs://bucket/recipe.yaml"))


def test_every_wrong_field_of_a_recipe_is_reported_at_once(world: World, refused: Refused) -> None:
    world.recipe |= {"smaples": 4, "samples": "many", "alpha": 9, "seed": -1, "collect": {"device": 5}}
    del world.recipe["store"]
    del world.task("dogs")["proxy"]
    world.task("cats")["colour"] = "red"
    world.recipe["base"]["activation"] = "relu"
    world.recipe["compare"] = [{"method": "best"}]
    refused(
        world,
        f"{world.root}/recipe.yaml: ",
        "10 problems",
        "smaples: unknown key",
        "samples: Input should be a valid integer",
        "(got 'many')",
        "alpha: ",
        "seed: ",
        "collect.device: ",
        "store: Field required",
        "tasks[1].proxy: Field required",
        "tasks[0].colour: unknown key",
        "base.activation: ",
        "compare[0].method: ",
    )


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(lambda w: w.recipe["tasks"].__delitem__(slice(1, 3)), "one task only", id="one task"),
        pytest.param(set_recipe(tasks=[]), "tasks: ", id="no task"),
        pytest.param(set_dogs(name="cats"), "duplicate task name(s) cats", id="duplicate names"),
        pytest.param(
            set_recipe(compare=[{"method": "tsv_m"}] * 2), "compare: a method is listed twice", id="compare"
        ),
        pytest.param(
            set_dogs(zero_shot={"classes": ["a", "b"]}), "give head or zero_shot, not both", id="two heads"
        ),
    ],
)
def test_a_recipe_that_contradicts_itself_is_told_so(
    world: World, refused: Refused, spoil: Spoil, said: str
) -> None:
    spoil(world)
    refused(world, f"{world.root}/recipe.yaml: ", said)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(set_recipe(alpha="best"), "alpha: must be a number from 0 to 4, or one of", id="a word"),
        pytest.param(set_recipe(alpha=4.1), "alpha: must be a number from 0 to 4", id="too large"),
        pytest.param(
            lambda world: world.task("dogs").pop("validation"),
            "task dogs: validation: there are no validation images, which alpha: validation needs",
            id="no validation images",
        ),
        pytest.param(
            lambda world: world.task("dogs").pop("head"),
            "task dogs: validation: images are given without a head",
            id="no head",
        ),
        pytest.param(
            lambda world: [world.task("dogs").pop(key) for key in ("head", "test", "validation")],
            "task dogs: head: there is none, which alpha: validation needs",
            id="neither",
        ),
        pytest.param(set_dogs(validation="nowhere"), "task dogs: validation: ", id="no such folder"),
        pytest.param(
            set_dogs(validation="dogs/proxy"), "holds validation images without a label", id="no labels"
        ),
    ],
)
def test_a_search_for_alpha_that_cannot_be_made_is_refused_before_any_work(
    world: World, refused: Refused, spoil: Spoil, said: str
) -> None:
    add_validation(world)
    world.recipe["alpha"] = "validation"
    spoil(world)
    refused(world, said)
    assert not (world.root / "store" / "merges").exists()


@pytest.mark.parametrize(
    ("labels", "said"),
    [([0, 7], "labels must be 0 to 2"), ([0, None], "holds validation images without a label")],
)
def test_validation_labels_that_only_contents_can_tell_are_named(
    world: World, refused: Refused, labels: list[int | None], said: str
) -> None:
    add_validation(world)
    world.recipe["alpha"] = "validation"
    image = (world.root / "dogs/proxy/0.png").read_bytes()
    pq.write_table(pa.table({"image": [image, image], "label": labels}), world.root / "v.parquet")
    world.task("dogs")["validation"] = "v.parquet"
    refused(world, "searching alpha", "task dogs: ", "v.parquet", said, commands=("merge",))


BAD_NAMES = ["a/b", "../a", "..", "a..b", ".a", "/a", "", "a b", "a\\b", "é", "a" * 81]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize(("spoil", "field"), [(set_recipe, "name: "), (set_dogs, "tasks[1].name: ")])
def test_a_name_that_could_leave_its_folder_is_refused_in_the_recipe(
    world: World, refused: Refused, spoil: Callable[..., Spoil], field: str, name: str
) -> None:
    spoil(name=name)(world)
    refused(world, field, repr(name), "is not a usable name", "letters, digits")


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("command", ["show", "verify", "versions"])
def test_a_name_that_could_leave_its_folder_is_refused_on_the_command_line(
    world: World, esmerge: Command, command: str, name: str
) -> None:
    said = message(esmerge(command, "--store", world.store, "--", name))
    assert repr(name) in said
    assert "is not a usable name" in said


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        pytest.param(set_recipe(store="gs://bucket/store"), "store", id="scheme"),
        pytest.param(set_recipe(store=""), "store", id="empty"),
        pytest.param(set_base(checkpoint="https://host/base.pt"), "base.checkpoint", id="base"),
        pytest.param(set_dogs(proxy="s3://key:hunter2@bucket/x"), "tasks[1].proxy", id="credentials"),
        pytest.param(set_dogs(head="s3://"), "tasks[1].head", id="no bucket"),
        pytest.param(set_dogs(checkpoint="dogs\0.pt"), "tasks[1].checkpoint", id="control character"),
    ],
)
def test_a_url_that_cannot_be_used_is_named_by_its_field(
    world: World, refused: Refused, spoil: Spoil, field: str
) -> None:
    spoil(world)
    assert "hunter2" not in refused(world, f"{world.root}/recipe.yaml: {field}: ")


@pytest.mark.parametrize("section", ["collect", "fuse", "evaluate"])
@pytest.mark.parametrize("device", ["banana", "cuda:99"])
def test_a_device_that_is_not_there_is_named_by_its_field(
    world: World, refused: Refused, section: str, device: str
) -> None:
    world.recipe[section] = {"device": device}
    refused(world, f"{section}.device", device, commands=("merge",))


def test_unrelated_problems_are_all_reported_in_one_run(world: World, refused: Refused) -> None:
    set_base(checkpoint="nowhere.safetensors")(world)
    write_hf(world, "quick_gelu")
    world.task("dogs")["proxy"] = "nobody"
    world.task("dogs")["test"] = "never"
    (world.root / "cats.safetensors").write_bytes(b"x" * 99)
    save_file({"weight": torch.ones(3, 5)}, world.root / "maps-head.safetensors")
    shutil.rmtree(world.root / "maps" / "proxy")
    (world.root / "store").mkdir()
    (world.root / "store" / "format.json").write_text('{"format": 99}')
    said = refused(
        world,
        "store: ",
        f"base: {world.root.as_uri()}/nowhere.safetensors",
        "task dogs: file",
        "quick_gelu",
        "/nobody",
        "task dogs: test: ",
        "/never",
        f"task cats: {world.root.as_uri()}/cats.safetensors",
        "task maps: head: ",
        f"task maps: {world.root.as_uri()}/maps/proxy",
        commands=("plan",),
    )
    assert said.startswith("8 problems:")
    shutil.rmtree(world.root / "store")
    assert refused(world, "/nowhere", "/nobody", "/never", "maps/proxy").startswith("7 problems:")


def test_problems_of_the_base_do_not_hide_those_of_the_tasks(world: World, refused: Refused) -> None:
    world.recipe["base"]["architecture"] = "no-such-model"
    (world.root / "dogs.safetensors").write_bytes(b"")
    edit(world, "cats", drop)
    refused(world, "3 problems", "'no-such-model'", "dogs.safetensors", "task cats: ", "12 tensors")


# --- the store ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["base.safetensors", "base.safetensors/store", "/proc/nowhere/store"])
def test_a_store_that_cannot_be_written_is_named(world: World, refused: Refused, store: str) -> None:
    world.recipe["store"] = store
    refused(world, "store: ", f"{store} cannot be written", commands=("merge",))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"format": 99}', ("format 99", "Upgrade esmerge")),
        ('{"format": "new"}', ("damaged",)),
        ("[1]", ("damaged",)),
        ("", ("damaged",)),
    ],
)
def test_a_store_of_another_format_is_refused_by_every_command(
    merged: World, refused: Refused, esmerge: Command, content: str, named: tuple[str, ...]
) -> None:
    location = merged.root / "store" / "format.json"
    location.write_text(content)
    refused(merged, str(location), *named)
    for command in ("show", "verify", "versions"):
        said = message(esmerge(command, "--store", merged.store, "pets"))
        assert all(text in said for text in (str(location), *named))


def test_a_manifest_of_a_newer_format_is_refused_by_every_command(
    merged: World, refused: Refused, esmerge: Command
) -> None:
    (location,) = versions(merged)
    location.write_text(json.dumps({**json.loads(location.read_text()), "format": 99}))
    for command in ("show", "verify", "versions"):
        said = message(esmerge(command, "--store", merged.store, "pets"))
        assert all(text in said for text in (str(location), "format 99", "Upgrade esmerge"))
    refused(merged, str(location), "format 99", "Upgrade esmerge", commands=("merge",))


@pytest.mark.parametrize(("folder", "gone"), [("shifts/*", ["merges", "bases"]), ("merges/*/*", [])])
def test_a_marker_of_a_newer_format_is_refused(
    merged: World, refused: Refused, folder: str, gone: list[str]
) -> None:
    location = next((merged.root / "store").glob(f"{folder}/complete.json"))
    location.write_text(json.dumps({**json.loads(location.read_text()), "format": 99}))
    forget(merged, "static", "artifacts", *gone)
    refused(merged, str(location), "format 99", "Upgrade esmerge", commands=("merge",))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize("damage", [flip, shorten, Path.unlink])
@pytest.mark.parametrize(
    ("chunks", "depth", "gone"),
    [
        pytest.param("shifts/*/*mlp.c_fc.weight/factor/c/**/*", 2, ["merges", "bases"], id="shifts"),
        pytest.param("merges/*/*/update/c/**/*", 3, [], id="merges"),
    ],
)
def test_a_damaged_chunk_is_refused_until_its_folder_is_deleted(
    merged: World,
    refused: Refused,
    esmerge: Command,
    damage: Callable[[Path], None],
    chunks: str,
    depth: int,
    gone: list[str],
) -> None:
    store = merged.root / "store"
    chunk = next(path for path in sorted(store.glob(chunks)) if path.is_file())
    folder = store.joinpath(*chunk.relative_to(store).parts[:depth])
    assert (folder / "complete.json").is_file()
    damage(chunk)
    forget(merged, "static", "artifacts", *gone)
    said = refused(merged, folder.as_uri(), "array", commands=("merge",))
    deleted = re.findall(r"Delete the folder file://(\S+) and run again", said)
    assert deleted == [str(folder)]
    shutil.rmtree(deleted[0])
    again = esmerge("merge", merged.recipe_path)
    assert again.code == 0, again.err
    assert len(versions(merged)) == 1


def test_a_damaged_marker_or_ledger_names_the_file_to_delete(
    merged: World, refused: Refused, esmerge: Command
) -> None:
    location = next((merged.root / "store").glob("shifts/*/complete.json"))
    location.write_text("{")
    forget(merged, "static", "artifacts", "merges", "bases")
    said = refused(merged, str(location), "damaged", "Delete it and run again", commands=("merge",))
    assert esmerge("merge", merged.recipe_path).code == 2, said
    location.unlink()
    for entry in (merged.root / "store").glob("inspections/*.json"):
        entry.write_text("{")
    refused(merged, f"{merged.root}/store/inspections/", "damaged", "Delete it and run again")
    forget(merged, "inspections")
    assert esmerge("merge", merged.recipe_path).code == 0


# --- versions that are not there ---------------------------------------------------------------------


@pytest.mark.parametrize("command", ["show", "verify"])
@pytest.mark.parametrize(
    ("name", "version", "said"),
    [
        ("cars", "latest", "artifacts/cars: has no published version"),
        ("pets", "2", "artifacts/pets: has no published version v000002"),
        ("pets", "v000007", "artifacts/pets: has no published version v000007"),
        ("pets", "newest", "'newest' is not a version"),
        ("pets", "../v000001", "'../v000001' is not a version"),
        ("pets", "-1", "'-1' is not a version"),
    ],
)
def test_no_such_artifact_or_version_is_named(
    merged: World, esmerge: Command, command: str, name: str, version: str, said: str
) -> None:
    assert said in message(esmerge(command, "--store", merged.store, "--", name, version))


@pytest.mark.parametrize("command", ["show", "verify"])
def test_no_such_store_is_named(world: World, esmerge: Command, command: str) -> None:
    assert str(world.store) in message(esmerge(command, "--store", world.store, "pets"))
    assert not (world.root / "store").exists()


def test_a_claimed_version_without_a_manifest_is_not_there(merged: World, esmerge: Command) -> None:
    (versions(merged)[0]).unlink()
    assert "no published version" in message(esmerge("show", "--store", merged.store, "pets"))
