"""Training: the base on all tasks at once, then one fine-tune per task with a frozen head."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from demo.data import Task
from demo.model import FEATURES, accuracy, build_tower, features, preprocess

Report = Callable[[str], None]
State = dict[str, Tensor]


@dataclass(frozen=True)
class TrainSettings:
    """How the towers are trained."""

    base_steps: int = 650
    base_batch: int = 128
    base_rate: float = 1e-3
    head_noise: float = 1.2
    expert_epochs: int = 5
    expert_batch: int = 32
    expert_rate: float = 2e-4
    logit_scale: float = 20.0


def train_base(
    tasks: list[Task], settings: TrainSettings, seed: int, report: Report
) -> tuple[State, dict[str, Tensor]]:
    """A tower trained a short while on all tasks, and its imperfect heads.

    The heads it was trained with fit it too well. CLIP's heads are made by a text tower and only
    roughly point where the images are, so every class row gets noise here and is frozen.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    tower = build_tower()
    inputs = torch.cat([preprocess(task.train.images) for task in tasks])
    counts = [len(task.classes) for task in tasks]
    starts = np.cumsum([0, *counts])
    labels = torch.from_numpy(
        np.concatenate([task.train.labels + start for task, start in zip(tasks, starts, strict=False)])
    )
    of_task = torch.from_numpy(np.repeat(np.arange(len(tasks)), [len(task.train.labels) for task in tasks]))
    other_task = torch.arange(len(tasks))[:, None] != torch.from_numpy(np.repeat(np.arange(len(tasks)), counts))

    rows = nn.Parameter(torch.randn(int(starts[-1]), FEATURES, generator=generator))
    optimizer = torch.optim.AdamW([*tower.parameters(), rows], lr=settings.base_rate, weight_decay=0.0)
    batches = _batches(len(inputs), settings.base_batch, generator)
    for step in range(settings.base_steps):
        _set_rate(optimizer, settings.base_rate, step, settings.base_steps)
        batch = next(batches)
        directions = nn.functional.normalize(rows, dim=-1)
        logits = settings.logit_scale * features(tower, inputs[batch]) @ directions.T
        logits = logits.masked_fill(other_task[of_task[batch]], -math.inf)
        loss = nn.functional.cross_entropy(logits, labels[batch])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if (step + 1) % 50 == 0 or step + 1 == settings.base_steps:
            report(f"step {step + 1} of {settings.base_steps}, loss {loss.item():.2f}")

    noise = torch.randn(rows.shape, generator=generator)
    noise = settings.head_noise * nn.functional.normalize(noise, dim=-1)
    imperfect = nn.functional.normalize(nn.functional.normalize(rows.detach(), dim=-1) + noise, dim=-1)
    heads = dict(zip((task.name for task in tasks), imperfect.split(counts), strict=True))
    return tower_state(tower), heads


def fine_tune(
    task: Task, base: State, head: Tensor, settings: TrainSettings, seed: int, report: Report
) -> tuple[State, float, float]:
    """The tower fine-tuned on one task, and the validation accuracies of base and fine-tune."""
    generator = torch.Generator().manual_seed(seed)
    tower = build_tower()
    tower.load_state_dict(base)
    inputs, labels = preprocess(task.train.images), torch.from_numpy(task.train.labels)
    val = preprocess(task.val.images)
    before = after = accuracy(tower, head, val, task.val.labels)
    report(f"base {before:.1f} %")
    optimizer = torch.optim.AdamW(tower.parameters(), lr=settings.expert_rate, weight_decay=0.0)
    batches = _batches(len(inputs), settings.expert_batch, generator)
    for epoch in range(settings.expert_epochs):
        for _ in range(len(inputs) // settings.expert_batch):
            batch = next(batches)
            logits = settings.logit_scale * features(tower, inputs[batch]) @ head.T
            loss = nn.functional.cross_entropy(logits, labels[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        after = accuracy(tower, head, val, task.val.labels)
        report(f"epoch {epoch + 1} of {settings.expert_epochs}, {after:.1f} %")
    return tower_state(tower), before, after


def tower_state(tower: nn.Module) -> State:
    """A tower's tensors by name."""
    return {name: tensor.detach().contiguous() for name, tensor in tower.state_dict().items()}


def _batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of indices without end; each pass over the data has its own order."""
    while True:
        order = torch.randperm(count, generator=generator)
        yield from order[: count - count % size].split(size)


def _set_rate(optimizer: torch.optim.Optimizer, peak: float, step: int, steps: int) -> None:
    """Linear warm-up over the first twentieth, then a half cosine down to zero."""
    warm = max(1, steps // 20)
    rate = peak * min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * step / steps))
    for group in optimizer.param_groups:
        group["lr"] = rate
