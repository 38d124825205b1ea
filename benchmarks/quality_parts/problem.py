"""One seed's fine-tunes of some tasks, with everything that merges and measurements need, in memory."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from benchmarks.quality_parts.kept import kept_tensors
from benchmarks.quality_parts.proxies import DEFAULT_PROXIES, Proxies, faces
from esm_core.architecture import build_tower, load_architecture, preprocess
from esm_core.collect import CollectedLayer, collect_inputs
from esm_core.experts.check import expert_weights_of
from esm_core.factor import InputFactor
from esm_core.heads import linear_head, predictions
from esm_core.images import choose_samples, open_images
from esm_core.images.batches import image_batches
from esm_core.recipe import TaskSpec
from esm_core.recipe_file import load_recipe
from esm_core.settings import ExpertSettings
from esm_core.storage import Location
from esm_core.weights import open_tower, read_tower

Split = Literal["validation", "test"]
State = dict[str, Tensor]
Accuracy = dict[str, float]

BATCH = 200
COLLECTED_AT_ONCE = 32
"""Images per forward pass while collecting, as in a recipe."""


class Problem:
    """A seed folder and the tasks that are merged. What it holds is read when it is asked for first.

    Parameters
    ----------
    folder : Path
        As :func:`demo.prepare.prepare` leaves it.
    tasks : sequence of str
        Names of tasks in its recipe; taken in the order of their names, as merges do.
    keep : Path
        Folder for collected layer inputs, shared by problems of this seed.
    """

    def __init__(self, folder: Path, tasks: Sequence[str], keep: Path) -> None:
        recipe = load_recipe(str(folder / "recipe.yaml"))
        self._specs = {spec.name: spec for spec in recipe.tasks if spec.name in tasks}
        self.names = sorted(tasks)
        if missing := sorted(set(tasks) - set(self._specs)):
            raise SystemExit(
                f"{folder} has no task {', '.join(missing)}. For fashion install Debian's "
                "dataset-fashion-mnist, delete that folder and run again."
            )
        self._base = Location.parse(recipe.base.checkpoint)
        self.architecture = load_architecture(recipe.base.architecture, self._base)
        self._keep = keep
        self._images: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
        self._made: dict[str, State] = {}

    def once(self, key: str, make: Callable[[], State]) -> State:
        """Tensors that several variants need, made by the first that asks."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    # Models.

    @cached_property
    def base(self) -> State:
        """The base tower, ``visual.`` name → float32."""
        tower = open_tower(self._base)
        return read_tower(tower, tower)

    @cached_property
    def tuned(self) -> dict[str, State]:
        """The fine-tuned towers by task, under the base's names."""
        base = open_tower(self._base)
        places = {name: Location.parse(self._specs[name].checkpoint) for name in self.names}
        return {name: read_tower(open_tower(place), base) for name, place in places.items()}

    @cached_property
    def updates(self) -> dict[str, State]:
        """Task → weight → ``W_t - W0``, float64."""
        return {
            name: {key: own[key].double() - self.base[key].double() for key in self.base}
            for name, own in self.tuned.items()
        }

    @cached_property
    def heads(self) -> dict[str, State]:
        """Task → its linear head."""
        return {name: linear_head(str(self._specs[name].head)) for name in self.names}

    @cached_property
    def linear_weights(self) -> list[str]:
        """Weights whose inputs are collected: every linear map of the tower, and its patch convolution."""
        return expert_weights_of(ExpertSettings(), self.base)

    def tower(self, tensors: Mapping[str, Tensor]) -> nn.Module:
        """A tower to run, float32: ``tower(images)`` maps ``[B, 3, 32, 32]`` to ``[B, 64]``."""
        return build_tower(self.architecture, tensors, "cpu", torch.float32)

    # Images.

    def labelled(self, name: str, split: Split) -> tuple[Tensor, Tensor]:
        """Images ``[n, 3, 32, 32]``, preprocessed, and labels ``[n]`` of a task's split."""
        return self._read(name, split, str(getattr(self._specs[name], split)))

    def proxy_images(self, name: str, proxies: Proxies = DEFAULT_PROXIES) -> Tensor:
        """``[count, 3, 32, 32]``: what a task's inputs are collected on; no label is known."""
        if proxies.source == "faces":
            return faces(proxies.count)
        if proxies.source == "other_task":
            name = self.names[(self.names.index(name) + 1) % len(self.names)]
        spec: TaskSpec = self._specs[name]
        ids = open_images(Location.parse(spec.proxy)).sample_ids()
        images, _ = self._read(name, "proxy", spec.proxy)
        chosen = choose_samples(ids, min(proxies.count, len(ids)), 0, spec.proxy)
        place = {sample_id: index for index, sample_id in enumerate(ids)}
        return images[[place[sample_id] for sample_id in chosen]]

    def _read(self, name: str, split: str, url: str) -> tuple[Tensor, Tensor]:
        if (name, split) not in self._images:
            source = open_images(Location.parse(url))
            samples = source.read(source.sample_ids())
            batches = list(image_batches(samples, source.location, preprocess(self.architecture), BATCH))
            labels = [-1 if label is None else label for _, own in batches for label in own]
            self._images[name, split] = torch.cat([images for images, _ in batches]), torch.tensor(labels)
        return self._images[name, split]

    # Layer inputs.

    def collected(self, name: str, proxies: Proxies = DEFAULT_PROXIES) -> dict[str, CollectedLayer]:
        """Every linear weight's inputs when the task's fine-tune runs on its proxies, compressed."""
        return self._collect(name, self.proxy_images(name, proxies), f"{name}-{proxies.label}")

    def held_out(self, name: str) -> dict[str, CollectedLayer]:
        """The same on the task's test images."""
        return self._collect(name, self.labelled(name, "test")[0], f"{name}-test")

    def inputs(self, proxies: Proxies = DEFAULT_PROXIES) -> dict[str, dict[str, InputFactor]]:
        """Task → weight → inputs, as :func:`esm_core.merge_updates` takes them."""
        found = {name: self.collected(name, proxies) for name in self.names}
        return {name: {key: layer.inputs for key, layer in own.items()} for name, own in found.items()}

    def _collect(self, name: str, images: Tensor, label: str) -> dict[str, CollectedLayer]:
        identity = hashlib.sha256(images.numpy().tobytes())
        for _, tensor in sorted(self.tuned[name].items()):
            identity.update(tensor.numpy().tobytes())

        def make() -> State:
            batches = torch.split(images, COLLECTED_AT_ONCE)
            streams = collect_inputs(self.tower(self.tuned[name]), batches, self.linear_weights, {}, name)
            kept: State = {}
            for weight in self.linear_weights:
                layer = streams.take_inputs(weight)
                kept[f"{weight}/factor"], kept[f"{weight}/mean"] = layer.inputs.factor, layer.mean
                kept[f"{weight}/rows"] = torch.tensor(layer.inputs.rows)
            return kept

        tensors = kept_tensors(self._keep / f"{label}-{identity.hexdigest()[:16]}.inputs", make)
        return {
            weight: CollectedLayer(
                InputFactor(tensors[f"{weight}/factor"], int(tensors[f"{weight}/rows"])),
                tensors[f"{weight}/mean"],
            )
            for weight in self.linear_weights
        }

    # Measurements.

    def accuracy(self, tower: nn.Module, split: Split) -> Accuracy:
        """Task → share of a split's images that ``tower`` and the task's head get right."""
        return {name: self.accuracy_on(tower, name, split) for name in self.names}

    def accuracy_on(self, tower: nn.Module, name: str, split: Split) -> float:
        """The same for one task."""
        images, labels = self.labelled(name, split)
        with torch.inference_mode():
            features = torch.cat([tower(batch) for batch in torch.split(images, BATCH)])
        return float((predictions(features, self.heads[name]) == labels).double().mean())
