"""Where the parts of the stack listen and where they keep their files."""

import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path

from esm_core.errors import InputError

DEFAULT_PORT_BASE = 14200

PORTS = (
    "prefect",
    "s3",
    "dask scheduler",
    "dask dashboard",
    "gpu worker",
    "gpu worker nanny",
    "gpu worker dashboard",
    "cpu worker",
    "cpu worker nanny",
    "cpu worker dashboard",
    "s3 grpc",
    "s3 iam",
    "s3 master",
    "s3 master grpc",
    "s3 volume",
    "s3 volume grpc",
    "s3 filer",
    "s3 filer grpc",
)
"""Every port, in the order in which they follow the base."""


@dataclass(frozen=True)
class Layout:
    """Host, ports and folders of one stack.

    Parameters
    ----------
    state : Path
        Absolute folder that is kept between runs.
    host : str
        IP address that every part binds to and is reached at.
    base : int
        The first of the consecutive ports.

    Raises
    ------
    InputError
        A host that is no address to be reached at, or ports beyond 65535.
    """

    state: Path
    host: str = "127.0.0.1"
    base: int = DEFAULT_PORT_BASE

    def __post_init__(self) -> None:
        try:
            address = ipaddress.IPv4Address(self.host)
        except ValueError as error:
            raise InputError(f"ESMERGE_STACK_HOST is {self.host!r}; give an IPv4 address.") from error
        if address.is_unspecified:
            raise InputError(
                f"ESMERGE_STACK_HOST is {self.host}, which nobody can connect to; give the address by "
                "which others reach this machine."
            )
        if not 1024 <= self.base <= 65536 - len(PORTS):
            raise InputError(
                f"ESMERGE_STACK_PORT_BASE is {self.base}; it must be between 1024 and {65536 - len(PORTS)}."
            )

    @property
    def is_private(self) -> bool:
        """Whether only this machine can connect."""
        return ipaddress.IPv4Address(self.host).is_loopback

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    def port(self, name: str) -> int:
        return self.base + PORTS.index(name)

    def address(self, name: str) -> str:
        """``host:port``."""
        return f"{self.host}:{self.port(name)}"

    def url(self, name: str) -> str:
        return f"http://{self.address(name)}"


def check_ports(layout: Layout) -> None:
    """See that nobody listens where the stack is about to.

    Raises
    ------
    InputError
        Names every port that is taken.
    """
    taken = [name for name in PORTS if not _is_free(layout.host, layout.port(name))]
    if taken:
        ports = ", ".join(f"{layout.port(name)} (for {name})" for name in taken)
        raise InputError(
            f"In use on {layout.host}: port {ports}. Stop what listens there, or set "
            f"ESMERGE_STACK_PORT_BASE, now {layout.base}, to the first of {len(PORTS)} free ports."
        )


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
