"""Essential Subspace Merging of open_clip vision models: the library.

>>> from esm_core import MergeSettings, load, merge_updates
"""

import importlib
from typing import TYPE_CHECKING

from esm_core.errors import EsmergeError, InputError, IntegrityError
from esm_core.settings import MergeSettings

if TYPE_CHECKING:
    from esm_core import routing
    from esm_core.factor import InputFactor
    from esm_core.loading import LoadedModel, load
    from esm_core.merge import merge_updates
else:
    # What needs torch and open_clip is imported when it is asked for: a listing of versions needs neither.
    _WHERE = {
        "InputFactor": "esm_core.factor",
        "LoadedModel": "esm_core.loading",
        "load": "esm_core.loading",
        "merge_updates": "esm_core.merge",
    }

    def __getattr__(name):
        if name == "routing":
            return importlib.import_module("esm_core.routing")
        if name in _WHERE:
            return getattr(importlib.import_module(_WHERE[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "EsmergeError",
    "InputError",
    "InputFactor",
    "IntegrityError",
    "LoadedModel",
    "MergeSettings",
    "load",
    "merge_updates",
    "routing",
]
