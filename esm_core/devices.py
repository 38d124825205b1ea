"""Whether the devices a recipe names are there, asked where the work will be done."""

import torch

from esm_core.errors import raise_together
from esm_core.recipe import Recipe


def check_devices(recipe: Recipe) -> None:
    """Use every device of the recipe once.

    Raises
    ------
    InputError
        Names each section whose device this machine cannot use, and torch's reason.
    """
    problems = []
    for section in ("collect", "fuse", "evaluate"):
        device = getattr(recipe, section).device
        try:
            torch.ones(1, device=device).cpu()
        except Exception as error:  # torch raises many classes for a device that is not there
            reason = str(error).split("\n")[0][:150]
            problems.append(
                f"{section}.device: {device!r} cannot be used here ({reason}). Use cpu or another."
            )
    raise_together(problems)
