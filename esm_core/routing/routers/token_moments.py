"""A router that knows each task by its tokens, their places, and what varies from image to image."""

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from esm_core.routing.routers.statistics import (
    TokenStatistics,
    image_features,
    inner_products,
    inverse_and_log_det,
)
from esm_core.routing.routers.token_gaussian import RIDGE

OWN, FLOOR = 0.3, 0.01
"""Share of a task's own covariance of image features, the rest being all tasks'; and their ridge."""


class TokenMoments(nn.Module):
    """The sum of three log densities, each by task.

    The token Gaussian (:class:`TokenGaussian`); a Gaussian of the tokens about a mean for every
    position, also averaged over tokens; a Gaussian of the image features (mean and standard deviation
    over tokens).
    The first two together are one quadratic form: ``<quadratic, ZᵀZ>`` and ``<linear, Z>``.

    Parameters
    ----------
    quadratic : Tensor
        ``[T, d, d]``.
    linear : Tensor
        ``[T, L, d]``.
    offset : Tensor
        ``[T]``.
    whiten : Tensor
        ``[2 d, 2 d]``: takes image features to where the covariance shared by all tasks is the identity.
    centre : Tensor
        ``[T, 2 d]``: each task's mean there.
    own : Tensor
        ``[T, n, 2 d]``: ``U_t``, with ``I - U_tᵀ U_t`` the inverse of the task's covariance there.
    """

    quadratic: Tensor
    linear: Tensor
    offset: Tensor
    whiten: Tensor
    centre: Tensor
    own: Tensor

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        for name in ("quadratic", "linear", "offset", "whiten", "centre", "own"):
            self.register_buffer(name, tensors[name].float().contiguous())

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, L, d]`` → ``[B, T]``, natural logarithms up to a constant."""
        count = tokens.shape[1]
        scores = self.offset - (0.5 / count) * inner_products(self.quadratic, tokens.mT @ tokens)
        scores = scores + inner_products(self.linear, tokens) / count
        apart = (image_features(tokens) @ self.whiten)[:, None] - self.centre
        inside = torch.einsum("btf,tnf->btn", apart, self.own)
        return scores - 0.5 * (apart.square().sum(dim=2) - inside.square().sum(dim=2))

    @classmethod
    def load(cls, tensors: Mapping[str, Tensor]) -> Self:
        """From what an artifact holds."""
        return cls(**tensors)

    @classmethod
    def fit(cls, tasks: Sequence[TokenStatistics]) -> dict[str, Tensor]:
        """What an artifact holds, from each task's proxies."""
        found = _fit_tokens(tasks) | (image := _fit_images(tasks))
        found["offset"] = found["offset"] + image["image_offset"]
        return {name: tensor.float() for name, tensor in found.items() if name != "image_offset"}


def _fit_tokens(tasks: Sequence[TokenStatistics]) -> dict[str, Tensor]:
    moments = torch.stack([task.second / task.tokens for task in tasks])
    means = torch.stack([task.first / len(task.features) for task in tasks])
    about = moments - means.mT @ means / means.shape[1]
    # Of one image, or equal ones, nothing is known about how tokens vary: the second moment stands in.
    spread, size = (matrices.diagonal(dim1=1, dim2=2).sum(dim=1) for matrices in (about, moments))
    about = torch.where((spread > 1e-6 * size)[:, None, None], about, moments)
    precision, log_det = inverse_and_log_det(moments, RIDGE)
    own_precision, own_log_det = inverse_and_log_det(about, RIDGE)
    linear = means @ own_precision
    constant = (linear * means).sum(dim=(1, 2)) / means.shape[1]
    offset = -0.5 * (log_det + own_log_det + constant)
    return {"quadratic": precision + own_precision, "linear": linear, "offset": offset}


def _fit_images(tasks: Sequence[TokenStatistics]) -> dict[str, Tensor]:
    scale = torch.cat([task.features for task in tasks]).std(dim=0).clamp(min=1e-12)
    features = [task.features / scale for task in tasks]
    means = [own.mean(dim=0) for own in features]
    apart = [own - mean for own, mean in zip(features, means, strict=True)]
    rows = torch.cat(apart)
    shared = (1 - OWN) * rows.mT @ rows / len(rows)
    shared += FLOOR * (shared.diagonal().mean() + 1e-12) * torch.eye(len(shared)).to(shared)
    values, vectors = torch.linalg.eigh(shared)
    root = (vectors * values.rsqrt()) @ vectors.mT
    own, offsets = [], []
    for part in apart:
        spread = (OWN / len(part)) ** 0.5 * part @ root
        values, vectors = torch.linalg.eigh(torch.eye(len(part)).to(spread) + spread @ spread.mT)
        own.append((vectors * values.rsqrt()) @ vectors.mT @ spread)
        offsets.append(-0.5 * values.log().sum())
    most = max(len(part) for part in own)
    padded = [nn.functional.pad(part, (0, 0, 0, most - len(part))) for part in own]
    return {
        "whiten": root / scale[:, None],
        "centre": torch.stack(means) @ root,
        "own": torch.stack(padded),
        "image_offset": torch.stack(offsets),
    }
