"""A vision tower whose images find their own expert."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from esm_core.collect import patches
from esm_core.errors import InputError
from esm_core.experts import Experts
from esm_core.layers import CONV, PROJECTION
from esm_core.routing.block import BlockExperts, apply_norm, norm_bank
from esm_core.routing.modules import LowRankBank, OffsetBank
from esm_core.routing.routers import ROUTERS

IMAGE = "image"
"""Name of the decision that is made once per image, in records and metrics."""


@dataclass(frozen=True)
class Mode:
    """What a routed tower does with an image.

    Attributes
    ----------
    kind : str
        ``route``, ``oracle`` (given experts) or ``base`` (none: the static model).
    experts : tuple of int
        For ``oracle``: one for all images, or one per image of a batch.
    """

    kind: Literal["route", "oracle", "base"]
    experts: tuple[int, ...] = ()


@dataclass
class Record:
    """What was decided while recording, on the CPU, in the order of the images.

    Attributes
    ----------
    tasks : tuple of str
    scores : dict
        Layer (or ``image``) → ``[N, T]`` similarities, higher is better; comparable within a row only.
    """

    tasks: tuple[str, ...]
    scores: dict[str, Tensor] = field(default_factory=dict)

    @property
    def decisions(self) -> dict[str, Tensor]:
        """Layer (or ``image``) → ``[N]``, the place of the chosen task in ``tasks``."""
        return {layer: scores.argmax(dim=1) for layer, scores in self.scores.items()}

    def add(self, layer: str, scores: Tensor) -> None:
        known = self.scores.get(layer)
        new = scores.detach().float().cpu()
        self.scores[layer] = new if known is None else torch.cat([known, new])


class RoutedTower(nn.Module):
    """An open_clip vision tower with experts: ``tower(images)`` → features, as the static tower's.

    Nothing is kept from one call to the next, so threads may share a tower (in one mode).

    Parameters
    ----------
    static : nn.Module
        The published tower; held, not changed.
    experts : Experts
        Moved to the tower's device and dtype.

    Raises
    ------
    InputError
        A tower that cannot be routed.
    """

    def __init__(self, static: Any, experts: Experts) -> None:
        super().__init__()
        self.static = static
        self.tasks = experts.config.tasks
        self.mode = Mode("route")
        self.record: Record | None = None
        self.per_layer = experts.config.scope == "layer"
        self.blocks = nn.ModuleList(
            BlockExperts(experts, f"visual.transformer.resblocks.{index}", block)
            for index, block in enumerate(static.transformer.resblocks)
        )
        self.class_embedding = _offset(experts, "visual.class_embedding", lambda delta: delta[:, None])
        self.positional_embedding = _offset(experts, "visual.positional_embedding", lambda delta: delta)
        self.ln_pre = norm_bank(experts, "visual.ln_pre", static.ln_pre)
        self.ln_post = norm_bank(experts, "visual.ln_post", static.ln_post)
        self.conv1 = _low_rank(experts, CONV)
        self.proj = _low_rank(experts, PROJECTION)
        self.changes = any(name.partition(".")[0] != "static" for name, _ in self.named_buffers())
        weight = static.conv1.weight
        for part in self.children():
            if part is not static:
                part.to(device=weight.device, dtype=weight.dtype)
        router = ROUTERS[experts.config.router]
        self.scorers = _Scorers(
            {_key(name): router.load(dict(tensors)) for name, tensors in experts.router.items()}
        ).to(weight.device)
        self.eval().requires_grad_(False)

    @property
    def image_size(self) -> Any:
        """As open_clip's towers have it: ``(height, width)``."""
        return self.static.image_size

    def forward(self, images: Tensor) -> Any:
        """``[B, 3, H, W]`` → ``[B, embed_dim]``, by the mode that is set.

        Raises
        ------
        InputError
            Oracle mode with another number of tasks than images.
        """
        mode = self.mode
        if mode.kind == "base" or not self.changes:
            return self.static(images)
        if mode.kind == "oracle":
            named, count = len(mode.experts), len(images)
            if named not in (1, count):
                raise InputError(f"oracle: {named} tasks for {count} images; name one, or one per image.")
            fixed = torch.tensor(mode.experts, device=images.device)
            return self._routed(images, fixed.expand(count))
        return self._routed(images, None)

    def tokens(self, images: Tensor) -> Tensor:
        """What a router that decides once per image looks at: the static model's first layer input.

        ``[B, 3, H, W]`` → ``[B, L, d]``.
        """
        return self._first_inputs(self._embedded(self._patch_tokens(images), None))

    def _routed(self, images: Tensor, chosen: Tensor | None) -> Any:
        patches = self._patch_tokens(images)
        x = self._embedded(patches, None)
        if not self.per_layer:
            if chosen is None:
                chosen = self._score("", self._first_inputs(x)).argmax(dim=1)
            if self._embeds_differ:
                x = self._embedded(self._expert_patches(images, patches, chosen), chosen)

        def choose(layer: str, inputs: Tensor) -> Tensor:
            return self._score(layer, inputs).argmax(dim=1) if chosen is None else chosen

        norms = None if self.per_layer else chosen
        for block, experts in zip(self.static.transformer.resblocks, self.blocks, strict=True):
            x = experts(block, x, choose, norms)
        return self._projected(x, norms)

    @property
    def _embeds_differ(self) -> bool:
        parts = (self.conv1, self.class_embedding, self.positional_embedding, self.ln_pre)
        return any(part is not None for part in parts)

    def _patch_tokens(self, images: Tensor) -> Tensor:
        return self.static.conv1(images).flatten(2).mT  # type: ignore[no-any-return]

    def _expert_patches(self, images: Tensor, tokens: Tensor, chosen: Tensor) -> Tensor:
        if self.conv1 is None:
            return tokens
        changed: Tensor = self.conv1(tokens, patches(self.static.conv1, images), chosen)
        return changed

    def _embedded(self, tokens: Tensor, chosen: Tensor | None) -> Tensor:
        """What the first block is given, ``[B, L, d]``; the static model's where none is chosen."""
        token = self.static.class_embedding.expand(len(tokens), 1, -1)
        position = self.static.positional_embedding
        if chosen is not None and self.class_embedding is not None:
            token = self.class_embedding(token, chosen)
        x = torch.cat([token.to(tokens.dtype), tokens], dim=1)
        if chosen is not None and self.positional_embedding is not None:
            position = self.positional_embedding(position, chosen)
        x = self.static.patch_dropout(x + position.to(x.dtype))
        return apply_norm(self.static.ln_pre, self.ln_pre, x, chosen)

    def _first_inputs(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.static.transformer.resblocks[0].ln_1(x)
        return tokens

    def _score(self, layer: str, tokens: Tensor) -> Tensor:
        # Scores are sums of large terms of both signs: half precision would lose the difference.
        with torch.autocast(tokens.device.type, enabled=False):
            scores: Tensor = self.scorers[_key(layer)](tokens.float())
        if self.record is not None:
            self.record.add(layer or IMAGE, scores)
        return scores

    def _projected(self, x: Tensor, chosen: Tensor | None) -> Any:
        static = self.static
        if static.attn_pool is not None:
            pooled, tokens = static._pool(x)
        elif static.final_ln_after_pool:
            pooled, tokens = static._global_pool(x)
            pooled = apply_norm(static.ln_post, self.ln_post, _rows(pooled), chosen).view_as(pooled)
        else:
            pooled, tokens = static._global_pool(apply_norm(static.ln_post, self.ln_post, x, chosen))
        if static.proj is not None:
            features = pooled @ static.proj
            if chosen is not None and self.proj is not None:
                features = self.proj(_rows(features), _rows(pooled), chosen).view_as(features)
            pooled = features
        return (pooled, tokens) if static.output_tokens else pooled


class _Scorers(nn.ModuleDict):
    """Routers stay in float32 whatever the tower is converted to; they do move from device to device."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)  # type: ignore[no-untyped-call]
        return self


def routed_tower(model: nn.Module) -> RoutedTower:
    """The routed tower in ``model`` (an open_clip model or the tower itself).

    Raises
    ------
    InputError
        There is none.
    """
    for module in model.modules():
        if isinstance(module, RoutedTower):
            return module
    raise InputError("this model has no experts. Load it with esm_core.load(..., experts=True).")


def _rows(pooled: Tensor) -> Tensor:
    """``[B, L, d]``, where a tower may pool to one row per image or not at all."""
    return pooled if pooled.dim() == 3 else pooled[:, None]


def _key(layer: str) -> str:
    return layer.replace(".", "/") or IMAGE


def _offset(experts: Experts, name: str, shape: Any) -> OffsetBank | None:
    delta = experts.deltas.get(name)
    return OffsetBank(shape(delta)) if delta is not None and delta.any() else None


def _low_rank(experts: Experts, weight: str) -> LowRankBank | None:
    pair = experts.low_rank.get(weight)
    return LowRankBank(*pair) if pair is not None and pair[0].any() and pair[1].any() else None
