from collections.abc import Iterator
from pathlib import Path

import pytest
from acme import Installed, installed
from services import S3Server

from esm_core.storage import Location


@pytest.fixture
def acme(tmp_path: Path) -> Iterator[Installed]:
    """The package of docs/extending.md is installed while the test runs."""
    with installed(tmp_path / "site") as made:
        yield made


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> Location:
    return s3.bucket()
