"""Turning what filesystems raise into errors that name the place and say whether trying again helps."""

import contextlib
import errno
from collections.abc import Iterator

from esm_core.errors import InputError, TransientStorageError

_TRANSIENT_ERRNOS = {
    errno.EBUSY,
    errno.EIO,
    getattr(errno, "EREMOTEIO", errno.EIO),
    errno.ECONNRESET,
    errno.ETIMEDOUT,
}

_TRANSIENT_BOTO = {
    "ConnectTimeoutError",
    "ConnectionClosedError",
    "ConnectionError",
    "EndpointConnectionError",
    "HTTPClientError",
    "IncompleteReadError",
    "ReadTimeoutError",
    "ResponseStreamingError",
}


@contextlib.contextmanager
def storage_errors(location: object, operation: str) -> Iterator[None]:
    """Turn what a filesystem raises into an error that names the place and the operation.

    Raises
    ------
    InputError
        The place is missing, or access to it is refused or impossible.
    TransientStorageError
        The failure may pass: time-out, connection reset, throttling, a 5xx answer.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{location}: no such file, folder or bucket (tried to {operation} it).") from error
    except PermissionError as error:
        raise InputError(
            f"{location}: access refused (tried to {operation} it). Check the permissions and, for S3, "
            "the AWS environment variables or profile."
        ) from error
    except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
        raise InputError(f"{location}: cannot {operation} it: {error.strerror or error}.") from error
    except Exception as error:
        if _is_transient(error):
            raise TransientStorageError(
                f"{location}: could not {operation} it for now ({type(error).__name__}: {error})."
            ) from error
        if _is_missing_credentials(error):
            raise InputError(
                f"{location}: no AWS credentials were found. Set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
            ) from error
        if isinstance(error, OSError):
            raise InputError(f"{location}: cannot {operation} it: {error}.") from error
        raise


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _is_transient(error: BaseException) -> bool:
    for link in _chain(error):
        if isinstance(link, TimeoutError | ConnectionError):
            return True
        if isinstance(link, OSError) and link.errno in _TRANSIENT_ERRNOS:
            return True
        module = type(link).__module__.split(".")[0]
        name = type(link).__name__
        if module == "aiohttp" and name.startswith(("Client", "Server")):
            return True
        if module in ("botocore", "aiobotocore") and name in _TRANSIENT_BOTO:
            return True
    return False


def _is_missing_credentials(error: BaseException) -> bool:
    return any(
        type(link).__name__ in ("NoCredentialsError", "PartialCredentialsError") for link in _chain(error)
    )
