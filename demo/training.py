"""Training the demo's models: one small CLIP vision tower for all tasks, then a fine-tune per task."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from demo.splits import SIZE, Images, Split
from esm_core.architecture import Architecture, build_tower, tower_shapes

WIDTH, EMBEDDING = 128, 64

ARCHITECTURE = Architecture(
    name="demo",
    model_cfg={
        "embed_dim": EMBEDDING,
        "vision_cfg": {"image_size": SIZE, "layers": 4, "width": WIDTH, "head_width": 32, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
    },
    preprocess_cfg={
        "size": SIZE,
        "mode": "RGB",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    },
)

SCALE = 20.0
"""What cosine similarities are multiplied with before the softmax."""

State = dict[str, Tensor]
Report = Callable[[str], None]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: a base that is far from done, and fine-tunes that finish the work."""

    base_epochs: int
    base_rate: float
    tune_epochs: int
    tune_rate: float
    head_noise: float
    batch: int = 128


def to_tensor(images: Images) -> Tensor:
    """``[n, 32, 32, 3]`` bytes to float32 ``[n, 3, 32, 32]``, as open_clip's transform makes of the PNGs."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.5)


def train_base(
    splits: Mapping[str, Split], classes: Mapping[str, int], schedule: Schedule, seed: int, report: Report
) -> tuple[State, dict[str, Tensor]]:
    """Train one tower and one linear head per task together.

    Returns
    -------
    tower : dict
        ``visual.``-prefixed tensors.
    heads : dict
        Task → unit-norm rows ``[classes, 64]``.
    """
    torch.manual_seed(seed)
    tower = _trainable({name: _initial(name, shape) for name, shape in tower_shapes(ARCHITECTURE).items()})
    heads = nn.ParameterDict({name: nn.Parameter(torch.randn(classes[name], EMBEDDING)) for name in splits})
    optimiser = torch.optim.AdamW([*tower.parameters(), *heads.parameters()], lr=schedule.base_rate)
    order = torch.Generator().manual_seed(seed)
    data = {name: (to_tensor(split.images), torch.from_numpy(split.labels)) for name, split in splits.items()}
    steps = math.ceil(sum(len(labels) for _, labels in data.values()) / schedule.batch)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, schedule.base_rate, total_steps=steps * schedule.base_epochs, pct_start=0.1
    )
    for epoch in range(schedule.base_epochs):
        total = 0.0
        for batch in _mixed_batches(data, schedule.batch, order):
            features = tower(torch.cat([images for _, images, _ in batch])).split([len(b[2]) for b in batch])
            losses = [
                _loss(found, heads[name], labels) * len(labels)
                for found, (name, _, labels) in zip(features, batch, strict=True)
            ]
            loss = torch.stack(losses).sum() / schedule.batch
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            rate.step()
            total += loss.item()
        report(f"base: epoch {epoch + 1}/{schedule.base_epochs}, loss {total / steps:.2f}")
    found = {name: functional.normalize(head.detach(), dim=-1) for name, head in heads.items()}
    return _state(tower), found


def blur_head(head: Tensor, noise: float, seed: int) -> Tensor:
    """Unit-norm rows plus noise of ``noise`` times unit norm, renormalised: imperfect as text heads are."""
    generator = torch.Generator().manual_seed(seed)
    direction = functional.normalize(torch.randn(head.shape, generator=generator), dim=-1)
    return functional.normalize(head + noise * direction, dim=-1)


def fine_tune(base: State, head: Tensor, train: Split, schedule: Schedule, seed: int) -> State:
    """Fine-tune the tower on one task; its head stays frozen."""
    torch.manual_seed(seed)
    tower = _trainable(base)
    optimiser = torch.optim.AdamW(tower.parameters(), lr=schedule.tune_rate, weight_decay=0.0)
    order = torch.Generator().manual_seed(seed)
    images, labels = to_tensor(train.images), torch.from_numpy(train.labels)
    steps = schedule.tune_epochs * math.ceil(len(labels) / schedule.batch)
    # Cosine decay, as CLIP is fine-tuned: a constant rate ends in noise that fills every direction.
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(schedule.tune_epochs):
        for chosen in _batches(len(labels), schedule.batch, order):
            loss = _loss(tower(images[chosen]), head, labels[chosen])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            rate.step()
    return _state(tower)


def accuracy(state: State, head: Tensor, split: Split) -> float:
    """Share of a split's images that a tower and a head classify correctly."""
    tower = build_tower(ARCHITECTURE, state, "cpu", torch.float32)
    with torch.inference_mode():
        found = (tower(to_tensor(split.images)) @ head.T).argmax(dim=-1)
    return float((found == torch.from_numpy(split.labels)).float().mean())


def _loss(features: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    cosine = functional.normalize(features, dim=-1) @ functional.normalize(head, dim=-1).T
    return functional.cross_entropy(SCALE * cosine, labels)


def _trainable(state: State) -> nn.Module:
    tower = build_tower(ARCHITECTURE, {n: t.clone() for n, t in state.items()}, "cpu", torch.float32)
    return tower.requires_grad_(True).train()


def _state(tower: nn.Module) -> State:
    return {f"visual.{name}": tensor.detach().clone() for name, tensor in tower.state_dict().items()}


def _initial(name: str, shape: tuple[int, ...]) -> Tensor:
    """CLIP's initialisation in outline: ones for norms, zeros for biases, small normals for the rest."""
    if name.endswith("bias"):
        return torch.zeros(shape)
    if ".ln_" in name:
        return torch.ones(shape)
    return torch.randn(shape) * (0.02 if "conv1" in name else WIDTH**-0.5)


def _batches(count: int, batch: int, order: torch.Generator) -> Sequence[Tensor]:
    return torch.split(torch.randperm(count, generator=order), batch)


def _mixed_batches(
    data: Mapping[str, tuple[Tensor, Tensor]], batch: int, order: torch.Generator
) -> Iterator[list[tuple[str, Tensor, Tensor]]]:
    """Batches drawn over all tasks; each is a list of (task, images, labels)."""
    names = list(data)
    owner = torch.cat([torch.full((len(data[name][1]),), i) for i, name in enumerate(names)])
    place = torch.cat([torch.arange(len(data[name][1])) for name in names])
    for chosen in _batches(len(owner), batch, order):
        parts = [(name, place[chosen[owner[chosen] == i]]) for i, name in enumerate(names)]
        yield [(name, data[name][0][own], data[name][1][own]) for name, own in parts if len(own)]
