"""What float32 does to a router's scores."""

import copy
from functools import cache

import torch

from benchmarks.parts import make_experts, make_images, static_tower, token_moments
from esm_core.routing import RoutedTower

IMAGES = 24


@cache
def score_error(tasks: int) -> dict[str, float]:
    """Float32 against float64 scores of ``token_moments``, on images of one kind and mixtures of two.

    Returns
    -------
    dict
        ``score_error``: largest error of the lead of the best task over the second, in natural
        logarithms; ``score_error_share``: the largest share of that lead; ``smallest_lead``; ``flips``:
        images that float64 sends elsewhere.
    """
    tower = RoutedTower(
        static_tower().module, make_experts("published", tasks, 1, "token_moments", token_moments(tasks))
    )
    router = tower.scorers["image"]
    kinds = torch.arange(IMAGES) % tasks
    with torch.inference_mode():
        pure = make_images(kinds, seed=3)
        tokens = tower.tokens(torch.cat([pure, (pure + pure.roll(1, dims=0)) / 2]))
        single = router(tokens).double()
        exact = copy.deepcopy(router).double()(tokens.double())
    places = exact.topk(2, dim=1).indices
    lead, true = ((s.gather(1, places) @ torch.tensor([1.0, -1.0]).double()) for s in (single, exact))
    error = (lead - true).abs()
    return {
        "score_error": float(error.max()),
        "score_error_share": float((error / true).max()),
        "smallest_lead": float(true.min()),
        "flips": int((single.argmax(dim=1) != exact.argmax(dim=1)).sum()),
    }
