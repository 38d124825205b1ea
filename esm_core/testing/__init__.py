"""Tests for whoever writes a merge method, a naming scheme or an image source: subclass one, and run pytest.

esmerge's own are tested by them too. They need pytest and hypothesis; nothing else of esm_core imports this.
"""

import pytest

pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in ("methods", "layouts", "images")))

from esm_core.testing.images import ImageSourceTests  # noqa: E402  assertions are rewritten on import
from esm_core.testing.layouts import LayoutTests  # noqa: E402
from esm_core.testing.methods import MergeMethodTests  # noqa: E402

__all__ = ["ImageSourceTests", "LayoutTests", "MergeMethodTests"]
