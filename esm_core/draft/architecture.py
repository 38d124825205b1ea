"""Which architecture a checkpoint has, by the shapes of its tensors."""

import contextlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import open_clip

from esm_core.architecture import Architecture, empty_model, load_architecture, tower_shapes
from esm_core.checkpoints import Checkpoint
from esm_core.draft.scan import FoundTower
from esm_core.errors import InputError
from esm_core.recipe import Activation
from esm_core.storage import Location

_EVAL_ONLY = ("patch_dropout", "output_tokens")
"""Keys of ``vision_cfg`` that change nothing of the features."""


@dataclass(frozen=True)
class Guess:
    """What is known of the architecture.

    Attributes
    ----------
    name : str or None
        An open_clip name or the path of a configuration; None where several fit, or none.
    options : tuple of str
        The names that fit, where there are several.
    why : str
        For people.
    """

    name: str | None
    options: tuple[str, ...] = ()
    why: str = ""


def given_architecture(name: str, base: FoundTower | None) -> Guess:
    """What the user says, compared with the base.

    Raises
    ------
    InputError
        There is no such architecture, or the base has other shapes.
    """
    place = Location.parse(name).url if name.endswith(".json") else name
    architecture = load_architecture(place, Location.parse("."))
    if base is not None and not _has_shapes(architecture, base):
        raise InputError(
            f"--architecture: {base.location} has not the shapes of {name}. Leave it out to guess."
        )
    return Guess(name if place == name else place, why="as given")


def guess_architecture(base: FoundTower, configs: Iterable[Location], activation: Activation | None) -> Guess:
    """The architecture of ``base``.

    Parameters
    ----------
    base : FoundTower
    configs : iterable of Location
        Configurations that may be meant for it, the likeliest first.
    activation : str, optional
        What a checkpoint says of its activation function, which no shape tells.
    """
    for config in configs:
        try:
            architecture = load_architecture(config.url, config)
        except InputError:
            continue
        if _has_shapes(architecture, base):
            return Guess(config.url, why=f"{config.name} in the folder")
    fitting = _text_fits([a for a in _open_clip_models(base) if _has_shapes(a, base)], base.text)
    if activation is not None:
        fitting = [a for a in fitting if a.activation == activation]
    if not fitting:
        return Guess(
            None, why=f"no model of open_clip has its shapes ({_shapes(base)}): write a configuration"
        )
    by_identity: dict[str, list[str]] = {}
    for architecture in fitting:
        by_identity.setdefault(_identity(architecture), []).append(architecture.name)
    options = tuple(min(names, key=lambda n: (len(n), n)) for names in by_identity.values())
    if len(options) == 1:
        return Guess(options[0], why=f"the only one of open_clip with its shapes ({_shapes(base)})")
    kinds = {architecture.activation for architecture in fitting}
    told = "which activation function it has (OpenAI's weights: quick_gelu)" if len(kinds) > 1 else "which"
    return Guess(None, tuple(sorted(options)), f"{' or '.join(sorted(options))}; no shape tells {told}")


def _open_clip_models(base: FoundTower) -> list[Architecture]:
    """Those of open_clip that may have its shapes; text towers of transformers are left out."""
    shapes = {name: info.shape for name, info in base.tower.tensors.items()}
    conv = shapes.get("visual.conv1.weight", ())
    found = []
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name) or {}
        vision = config.get("vision_cfg", {})
        known = (vision.get("width", 768), vision.get("layers", 12), vision.get("patch_size", 16))
        of_transformers = "hf_model_name" in config.get("text_cfg", {})
        if known == (*conv[:1], _layers(shapes), *conv[-1:]) and not of_transformers:
            with contextlib.suppress(InputError):  # a tower of timm
                found.append(load_architecture(name, base.location))
    return found


def _layers(shapes: Iterable[str]) -> int:
    return len({name.split(".")[3] for name in shapes if name.startswith("visual.transformer.resblocks.")})


def _has_shapes(architecture: Architecture, base: FoundTower) -> bool:
    try:
        expected = tower_shapes(architecture)
    except InputError:  # of another kind than what can be merged
        return False
    own = {name: tuple(info.shape) for name, info in base.tower.tensors.items()}
    if base.tower.borrows_projection:
        own.setdefault("visual.proj", expected.get("visual.proj", ()))
    return own == expected


def _text_fits(found: Sequence[Architecture], text: Checkpoint) -> list[Architecture]:
    """Those whose text tower has the shapes of the base's, where it has one."""
    own = {name: tuple(info.shape) for name, info in text.tensors.items() if name != "logit_scale"}
    if not own:
        return list(found)
    return [architecture for architecture in found if own.items() <= _text_shapes(architecture).items()]


def _text_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in empty_model(architecture).state_dict().items()}


def _identity(architecture: Architecture) -> str:
    vision = {k: v for k, v in architecture.model_cfg["vision_cfg"].items() if k not in _EVAL_ONLY}
    return json.dumps({**architecture.identity, "vision_cfg": vision}, sort_keys=True)


def _shapes(base: FoundTower) -> str:
    shapes = {name: info.shape for name, info in base.tower.tensors.items()}
    conv, positions = shapes.get("visual.conv1.weight", ()), shapes.get("visual.positional_embedding", (0,))
    side = round((positions[0] - 1) ** 0.5) * conv[-1] if conv and positions[0] > 1 else 0
    width, patch = (conv[0], conv[-1]) if conv else (0, 0)
    out = shapes.get("visual.proj", (0, 0))[-1]
    return f"width {width}, {_layers(shapes)} layers, patch {patch}, images of {side} pixels, {out} outputs"
