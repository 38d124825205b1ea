"""Turning a pickled model into safetensors: the only place in esmerge that unpickles."""

import pickle
from typing import Any

import torch
from torch import nn

from esm_core.checkpoints.open import looks_like_safetensors
from esm_core.checkpoints.safetensors_file import write_safetensors
from esm_core.checkpoints.torch_file import (
    NESTED_UNDER,
    find_state_dict,
    is_plain_pickle,
    local_copy,
    quiet_torch,
    usable_tensors,
)
from esm_core.errors import InputError
from esm_core.storage import Location


def convert_pickled(source: Location, target: Location) -> None:
    """Load a pickled module or state dict and write its tensors as safetensors.

    Parameters
    ----------
    source : Location
        A file of ``torch.save`` or ``pickle.dump``, or a TorchScript archive: a module, a state dict,
        or either one under ``state_dict``, ``model_state_dict`` or ``model``.
    target : Location
        The new file; an existing one is never replaced. Names, values and dtypes are kept, ``module.``
        is stripped where every name has it, and shared tensors are written once per name.

    Raises
    ------
    InputError
        The target exists, the source is missing, damaged or already safetensors, a Python module it was
        saved with cannot be imported, or it holds no tensors.

    Notes
    -----
    **Unpickling runs whatever code the file contains, with your rights.** Call this only for a file
    whose source you trust, best as a user or in a container that can reach nothing of value. No merge
    calls it: a merge refuses such files, so nobody else's file gets here by being listed in a recipe.
    """
    if target.is_file() or target.is_dir():
        raise InputError(f"{target}: exists already; give a new path, or remove it first.")
    if looks_like_safetensors(source):
        raise InputError(f"{source}: is a safetensors file already; use it as it is.")
    values = find_state_dict(_without_modules(_unpickle(source)), source)
    write_safetensors(target, usable_tensors(values, source), values.__getitem__)


def _unpickle(source: Location) -> Any:
    with local_copy(source) as path:
        try:
            with quiet_torch():
                if is_plain_pickle(path):
                    with open(path, "rb") as stream:
                        return pickle.load(stream)  # noqa: S301  what this module is for
                return torch.load(path, map_location="cpu", weights_only=False)
        except (ImportError, AttributeError) as error:
            name = getattr(error, "name", None) if isinstance(error, ImportError) else None
            needed = f"the Python module {name!r}" if name else f"code that is not there ({error})"
            raise InputError(
                f"{source}: needs {needed}. Run the conversion where the model was trained, or put its code "
                "on PYTHONPATH."
            ) from error
        except Exception as error:  # unpickling can raise anything
            reason = " ".join(str(error).split())[:150]
            raise InputError(f"{source}: cannot be loaded ({type(error).__name__}: {reason}).") from error


def _without_modules(loaded: Any) -> Any:
    if isinstance(loaded, nn.Module):
        return loaded.state_dict()
    if isinstance(loaded, dict):
        return {k: _without_modules(v) if k in NESTED_UNDER else v for k, v in loaded.items()}
    return loaded
