"""What routers compute from tokens, against the plain formula."""

import pytest
import torch

from esm_core.routing.routers import PER_IMAGE
from esm_core.routing.routers.statistics import TokenStatistics, image_features, inner_products


def test_image_features_are_mean_and_standard_deviation() -> None:
    tokens = 3 + torch.randn(4, 7, 5, dtype=torch.float64)
    kept = tokens.clone()
    expected = torch.cat([tokens.mean(dim=1), tokens.std(dim=1)], dim=1)
    assert torch.allclose(image_features(tokens), expected, rtol=1e-12)
    assert torch.equal(tokens, kept)


def test_inner_products() -> None:
    tasks, samples = torch.randn(3, 5, 7), torch.randn(4, 5, 7)
    assert torch.allclose(
        inner_products(tasks, samples), torch.einsum("tij,bij->bt", tasks, samples), atol=1e-5
    )


@pytest.mark.parametrize("name", sorted(PER_IMAGE))
def test_scores_do_not_depend_on_the_batch_or_the_layout(name: str) -> None:
    torch.manual_seed(0)
    parts = [TokenStatistics.of(torch.randn(6, 7, 5) * (1 + task)) for task in range(3)]
    tensors = PER_IMAGE[name].fit(parts)
    router = PER_IMAGE[name].load(tensors)
    transposed = PER_IMAGE[name].load(
        {key: t.mT.contiguous().mT if t.dim() > 1 else t for key, t in tensors.items()}
    )
    assert all(buffer.is_contiguous() for buffer in transposed.buffers())
    tokens = torch.randn(4, 7, 5)
    scores = router(tokens)
    assert scores.shape == (4, 3)
    assert torch.equal(scores, transposed(tokens))
    assert torch.allclose(torch.cat([router(one[None]) for one in tokens]), scores, rtol=1e-4, atol=1e-3)
