from collections.abc import Iterator
from pathlib import Path

import pytest
from acme import Installed, installed


@pytest.fixture
def acme(tmp_path: Path) -> Iterator[Installed]:
    """The package of docs/extending.md is installed while the test runs."""
    with installed(tmp_path / "site") as made:
        yield made
