"""Loading a published model: verified bytes to an open_clip model."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from os import PathLike, fspath
from typing import NamedTuple

from PIL.Image import Image
from torch import Tensor, nn

from esm_core.architecture import CONFIG_NAME, Architecture, empty_model, filled, preprocess
from esm_core.artifacts import Manifest, Version, read_verified, read_version
from esm_core.checkpoints import tensors_in
from esm_core.experts.version import EXPERTS_FOLDER, version_experts
from esm_core.routing import RoutedTower
from esm_core.static import WEIGHTS_NAME
from esm_core.storage import Location


class LoadedModel(NamedTuple):
    """A published model.

    Attributes
    ----------
    model : nn.Module
        The open_clip model in evaluation mode, on the CPU; ``model.encode_image(images)``.
    preprocess : callable
        PIL image → float32 ``[3, H, W]``.
    manifest : dict
    """

    model: nn.Module
    preprocess: Callable[[Image], Tensor]
    manifest: Manifest


def load(
    store: str | PathLike[str], name: str, version: str | int = "latest", experts: bool = False
) -> LoadedModel:
    """Load a published model, every file's sha256 checked before a tensor is used (experts' if asked for).

    Parameters
    ----------
    store : str or path
        Store URL or path.
    name : str
        Artifact name.
    version : str or int
        ``latest``, a number, a label such as ``v000012``, or a channel such as ``stable``.
    experts : bool
        Every image finds its own expert (ESM++): ``model.visual`` is a routed tower, whose modes are in
        :mod:`esm_core.routing`. Without, the static model.

    Raises
    ------
    InputError
        No such store, artifact or version, or experts asked of a version that has none.
    IntegrityError
        A file differs from what was published; the message names it.
    """
    return read_version(Location.parse(fspath(store)), name, version, lambda found: _load(found, experts))


def _load(found: Version, experts: bool) -> LoadedModel:
    weights = f"model/{WEIGHTS_NAME}"
    # Experts are as large as the model: they are read where they are asked for.
    small = [p for p in found.manifest["files"] if p != weights and not p.startswith(f"{EXPERTS_FOLDER}/")]
    files = {path: read_verified(found, path) for path in small}
    config = json.loads(files[f"model/{CONFIG_NAME}"])
    architecture = Architecture(name=found.manifest["name"], **config)
    with ThreadPoolExecutor(1) as reading:
        data = reading.submit(read_verified, found, weights)
        model = filled(empty_model(architecture), tensors_in(data.result()))
    if experts:
        model.visual = RoutedTower(model.visual, version_experts(found))
    return LoadedModel(model, preprocess(architecture), found.manifest)
