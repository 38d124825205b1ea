"""The search for α, a part of the merge flow: one value after the other, all tasks of a value at once."""

import logging

from prefect import unmapped

from esm_core.alpha.choice import mean_score, next_alpha
from flows.gather import gather
from tasks import merge as tasks
from tasks.options import log_name

log = logging.getLogger(log_name)


def search_alpha(plan_url: str, names: list[str], on_proxies: bool) -> str:
    """Find the α with the best mean score over tasks; scores in the store are not computed again.

    Parameters
    ----------
    plan_url : str
        A plan whose layers are merged and whose α is not known.
    names : list of str
        Its tasks.
    on_proxies : bool
        Whether scores compare features of the proxies with those of base and fine-tune.

    Returns
    -------
    str
        URL of the plan with α.
    """
    tasks.write_the_line(plan_url)
    if on_proxies:
        references = tasks.measure_references.map(plan_url, names)
        gather("measuring the proxies", dict(zip(names, references, strict=True)))
    curve: dict[float, float] = {}
    while (alpha := next_alpha(curve)) is not None:
        scores = tasks.score_alpha.map(plan_url, unmapped(alpha), names)
        found = gather(f"scoring alpha {alpha}", dict(zip(names, scores, strict=True)))
        curve[alpha] = mean_score(found)
        log.info("alpha %s scores %.4f", alpha, curve[alpha])
    return tasks.choose_alpha(plan_url, curve)
