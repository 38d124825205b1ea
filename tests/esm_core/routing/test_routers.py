"""Routers against literal implementations of their formulas, in float64 and with loops."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from esm_core.routing.routers import PER_IMAGE, ROUTERS, Cosine, TokenGaussian, TokenMoments
from esm_core.routing.routers.statistics import TokenStatistics, total
from esm_core.routing.routers.token_gaussian import RIDGE
from esm_core.routing.routers.token_moments import FLOOR, OWN

LENGTH, WIDTH, TASKS = 5, 8, 3


def tokens_of(task: int, count: int, seed: int = 0) -> Tensor:
    """Gaussian tokens ``[count, L, d]`` float64, with a task's own covariance and its mean at every place."""
    own = torch.Generator().manual_seed(100 + task)
    mix = torch.eye(WIDTH) + 0.6 * torch.randn(WIDTH, WIDTH, generator=own)
    mean = torch.randn(LENGTH, WIDTH, generator=own)
    noise = torch.randn(count, LENGTH, WIDTH, generator=torch.Generator().manual_seed(7 * task + seed))
    return (noise @ mix + mean).double()


def proxies(count: int = 40) -> list[Tensor]:
    return [tokens_of(task, count) for task in range(TASKS)]


def held_out() -> Tensor:
    return torch.cat([tokens_of(task, 10, seed=1) for task in range(TASKS)])


def fitted(name: str, own: Sequence[Tensor]) -> TokenGaussian | TokenMoments:
    router = PER_IMAGE[name]
    return router.load(router.fit([TokenStatistics.of(tokens) for tokens in own]))


def gaussian_log_density(point: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Up to the constant of the dimension."""
    apart = point - mean
    return -0.5 * (apart @ torch.linalg.solve(covariance, apart) + torch.logdet(covariance))


def ridged(matrix: Tensor, share: float) -> Tensor:
    return matrix + share * matrix.diagonal().mean() * torch.eye(len(matrix)).to(matrix)


def literal_token_gaussian(own: Sequence[Tensor], images: Tensor) -> Tensor:
    """``[N, T]``: the mean log density of an image's tokens about zero."""
    scores = torch.zeros(len(images), len(own), dtype=torch.float64)
    for task, tokens in enumerate(own):
        rows = tokens.flatten(0, 1)
        moment = ridged(rows.mT @ rows / len(rows), RIDGE)
        for number, image in enumerate(images):
            found = [gaussian_log_density(token, torch.zeros(WIDTH).to(token), moment) for token in image]
            scores[number, task] = torch.stack(found).mean()
    return scores


def literal_token_moments(own: Sequence[Tensor], images: Tensor) -> Tensor:
    scores = literal_token_gaussian(own, images)
    for task, tokens in enumerate(own):
        mean = tokens.mean(dim=0)
        rows = (tokens - mean).flatten(0, 1)
        covariance = ridged(rows.mT @ rows / len(rows), RIDGE)
        for number, image in enumerate(images):
            found = [gaussian_log_density(image[place], mean[place], covariance) for place in range(LENGTH)]
            scores[number, task] += torch.stack(found).mean()

    def features(tokens: Tensor) -> Tensor:
        return torch.stack([torch.cat([image.mean(dim=0), image.std(dim=0)]) for image in tokens])

    scale = features(torch.cat(list(own))).std(dim=0)
    known = [features(tokens) / scale for tokens in own]
    apart = [rows - rows.mean(dim=0) for rows in known]
    shared = sum(rows.mT @ rows for rows in apart) / sum(map(len, apart))
    shared = ridged((1 - OWN) * shared, FLOOR)
    for task, rows in enumerate(apart):
        covariance = shared + OWN * rows.mT @ rows / len(rows)
        for number, point in enumerate(features(images) / scale):
            scores[number, task] += gaussian_log_density(point, known[task].mean(dim=0), covariance)
    return scores


LITERAL = {"token_gaussian": literal_token_gaussian, "token_moments": literal_token_moments}


def without_constant(scores: Tensor) -> Tensor:
    return scores.double() - scores.double().mean(dim=1, keepdim=True)


def test_cosine_is_that_of_the_mean_token_with_each_prototype() -> None:
    tokens, prototypes = torch.randn(4, LENGTH, WIDTH), 3 * torch.randn(TASKS, WIDTH)
    scores = Cosine.load({"prototypes": prototypes})(tokens)
    for image, row in zip(tokens, scores, strict=True):
        mean = image.sum(dim=0) / LENGTH
        for prototype, score in zip(prototypes, row, strict=True):
            cosine = mean @ prototype / (mean.norm() * prototype.norm())
            torch.testing.assert_close(score, cosine, rtol=1e-5, atol=1e-6)


def test_cosine_does_not_depend_on_lengths_and_survives_zeros() -> None:
    tokens, prototypes = torch.randn(4, LENGTH, WIDTH), torch.randn(TASKS, WIDTH)
    short, long = Cosine(prototypes), Cosine(100 * prototypes)
    torch.testing.assert_close(short(tokens), long(50 * tokens))
    assert torch.equal(Cosine(0 * prototypes)(0 * tokens), torch.zeros(4, TASKS))


@pytest.mark.parametrize("name", PER_IMAGE)
def test_scores_are_the_literal_log_densities(name: str) -> None:
    scores = fitted(name, proxies())(held_out().float())
    expected = LITERAL[name](proxies(), held_out())
    torch.testing.assert_close(without_constant(scores), without_constant(expected), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", PER_IMAGE)
def test_the_constant_that_is_left_out_is_the_same_for_all_tasks(name: str) -> None:
    difference = fitted(name, proxies())(held_out().float()) - LITERAL[name](proxies(), held_out())
    assert difference.std() < 1e-3


@pytest.mark.parametrize("name", PER_IMAGE)
def test_separable_gaussians_are_told_apart(name: str) -> None:
    chosen = fitted(name, proxies())(held_out().float()).argmax(dim=1)
    expected = torch.arange(TASKS).repeat_interleave(10)
    assert (chosen == expected).float().mean() > 0.95


def test_only_token_moments_sees_the_places_of_tokens() -> None:
    # One task's images are the other's, each with its tokens in reverse.
    tokens = tokens_of(0, 60)
    images = torch.cat([tokens_of(0, 10, seed=1), tokens_of(0, 10, seed=2).flip(1)]).float()
    expected = torch.tensor([0] * 10 + [1] * 10)
    both = [tokens, tokens.flip(1)]
    assert (fitted("token_moments", both)(images).argmax(dim=1) == expected).all()
    scores = fitted("token_gaussian", both)(images)
    torch.testing.assert_close(scores[:, 0], scores[:, 1], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", PER_IMAGE)
def test_float32_scores_are_close_to_those_in_float64(name: str) -> None:
    router = fitted(name, proxies())
    low = router(held_out().float())
    exact = router.double()(held_out())
    assert (low - exact).abs().max() < 1e-4 * exact.abs().max()
    assert torch.equal(low.argmax(dim=1), exact.argmax(dim=1))


def test_statistics_add_up_over_parts() -> None:
    tokens = tokens_of(0, 11)
    whole = TokenStatistics.of(tokens)
    parts = total(TokenStatistics.of(part) for part in tokens.split(4))
    assert whole.tokens == parts.tokens == 11 * LENGTH
    torch.testing.assert_close(parts.second, whole.second)
    torch.testing.assert_close(parts.first, whole.first)
    assert torch.equal(parts.features, whole.features)
    assert {whole.second.dtype, whole.first.dtype, whole.features.dtype} == {torch.float64}


@pytest.mark.parametrize("name", PER_IMAGE)
@pytest.mark.parametrize("counts", [(1, 2, 3), (1, 1, 1), (2, 30, 1)])
def test_a_few_images_suffice_and_their_numbers_may_differ(name: str, counts: tuple[int, ...]) -> None:
    own = [tokens_of(task, count) for task, count in enumerate(counts)]
    scores = fitted(name, own)(held_out().float())
    assert scores.shape == (30, TASKS)
    assert scores.isfinite().all()


@pytest.mark.parametrize("name", PER_IMAGE)
def test_equal_images_are_no_obstacle(name: str) -> None:
    own = [tokens_of(task, 1).expand(6, -1, -1) for task in range(TASKS)]
    scores = fitted(name, own)(torch.cat([tokens[:1] for tokens in own]).float())
    assert scores.argmax(dim=1).tolist() == list(range(TASKS))


@pytest.mark.parametrize("name", PER_IMAGE)
def test_a_dimension_that_never_varies_does_no_harm(name: str) -> None:
    own = [tokens.clone() for tokens in proxies()]
    for tokens in own:
        tokens[..., 0] = 0.0
        tokens[..., 1] = 2.5
    images = held_out()
    images[..., 0] = 0.0
    images[..., 1] = 2.5
    scores = fitted(name, own)(images.float())
    assert (scores.argmax(dim=1) == torch.arange(TASKS).repeat_interleave(10)).float().mean() > 0.9


@pytest.mark.parametrize("name", PER_IMAGE)
def test_what_an_artifact_holds_makes_the_router_again(name: str) -> None:
    tensors = PER_IMAGE[name].fit([TokenStatistics.of(tokens) for tokens in proxies()])
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    images = held_out().float()
    assert torch.equal(ROUTERS[name].load(tensors)(images), fitted(name, proxies())(images))
