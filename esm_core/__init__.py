"""Essential Subspace Merging of open_clip vision models: the library.

>>> from esm_core import MergeSettings, load, merge_updates
"""

from esm_core import routing
from esm_core.errors import EsmergeError, InputError, IntegrityError
from esm_core.factor import InputFactor
from esm_core.loading import LoadedModel, load
from esm_core.merge import merge_updates
from esm_core.settings import MergeSettings

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
