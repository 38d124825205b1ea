"""The database of a new Prefect server, kept: to make one takes longer than to start the server."""

import os
import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

_NAME = "prefect.db"


def _kept() -> Path:
    """Beside the packages that made it, so that it ends with them."""
    return Path(sys.prefix) / f".prefect-{version('prefect')}.db"


def give_database(home: Path) -> None:
    """Lay the kept database into the folder of a server that has not started yet, if there is one."""
    if _kept().exists():
        home.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_kept(), home / _NAME)


def keep_database(home: Path) -> None:
    """Keep the database of a server that is ready and did nothing yet, unless one is kept."""
    if _kept().exists():
        return
    handle, path = tempfile.mkstemp(dir=sys.prefix)
    os.close(handle)
    with closing(sqlite3.connect(home / _NAME)) as source, closing(sqlite3.connect(path)) as target:
        source.backup(target)
    Path(path).replace(_kept())
