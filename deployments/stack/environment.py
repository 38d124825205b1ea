"""The environment of the stack: made once, handed to every part, and sourced by the people who use it."""

import json
import os
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path

from deployments.stack.layout import Layout
from esm_core.errors import InputError

ROOT = Path(__file__).parents[2]
"""Where the code is."""

BUCKET = "esmerge"

_OURS = ("AWS_", "PREFECT_", "DASK_")


def s3_identity(layout: Layout) -> tuple[str, str]:
    """Access key and secret key of the S3 server, generated the first time and kept in ``s3.json``."""
    path = layout.state / "s3.json"
    if not path.exists():
        keys = {"accessKey": secrets.token_hex(10), "secretKey": secrets.token_hex(24)}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "stack", "credentials": [keys], "actions": actions}
        write_private(path, json.dumps({"identities": [identity]}))
    found = json.loads(path.read_text())["identities"][0]["credentials"][0]
    return found["accessKey"], found["secretKey"]


def stack_environment(layout: Layout, given: Mapping[str, str]) -> dict[str, str]:
    """What a process needs to use the stack.

    Parameters
    ----------
    layout : Layout
    given : mapping
        Environment of the caller; ``ESMERGE_RECIPE`` and ``ESMERGE_STORE`` in it are kept.
    """
    access, secret = s3_identity(layout)
    return {
        "AWS_ENDPOINT_URL": layout.url("s3"),
        "AWS_ACCESS_KEY_ID": access,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "PREFECT_API_URL": f"{layout.url('prefect')}/api",
        "PREFECT_HOME": str(layout.state / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "esm_core,esmerge",
        "PREFECT_LOGGING_ROOT_LEVEL": "INFO",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": "1",
        "THP_MEM_ALLOC_ENABLE": "1",
        "ESMERGE_RUNNER": "dask",
        "ESMERGE_DASK_ADDRESS": f"tcp://{layout.address('dask scheduler')}",
        "ESMERGE_RECIPE": given.get("ESMERGE_RECIPE", f"s3://{BUCKET}/recipe.yaml"),
        "ESMERGE_STORE": given.get("ESMERGE_STORE", f"s3://{BUCKET}/store"),
    }


def inherited(given: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment without what would send a part to somebody else's server or bucket."""
    kept = {name: value for name, value in given.items() if not name.startswith(_OURS)}
    path = [str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(path)}


def write_environment(path: Path, values: Mapping[str, str]) -> None:
    """Write a file for ``source``, readable by its owner only."""
    lines = ["# Written by make stack. Use it with: source " + str(path)]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
    write_private(path, "\n".join(lines) + "\n")


def read_environment(path: Path) -> dict[str, str]:
    """What :func:`write_environment` wrote.

    Raises
    ------
    InputError
        There is no such file: no stack was started with this state folder.
    """
    if not path.exists():
        raise InputError(f"{path} is not there: start the stack with `make stack` in another terminal.")
    words = shlex.split(path.read_text(), comments=True)
    return dict(word.split("=", 1) for word in words if word != "export")


def write_private(path: Path, text: str) -> None:
    """Write a file that nobody else can read at any time."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    temporary.replace(path)
