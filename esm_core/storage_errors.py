"""Turning what filesystems raise into errors that name the place and say whether trying again helps.

What a server says is repeated without credentials: some servers echo the key they were given.
"""

import contextlib
import errno
import os
import platform
import re
from collections.abc import Iterator
from typing import Any

from esm_core.errors import EsmergeError, InputError, TransientStorageError

_TRANSIENT_ERRNOS = {
    errno.EBUSY,
    errno.EIO,
    getattr(errno, "EREMOTEIO", errno.EIO),
    errno.ECONNRESET,
    errno.ETIMEDOUT,
}

_TRANSIENT_BOTO = {
    "AioReadTimeoutError",
    "ConnectTimeoutError",
    "ConnectionClosedError",
    "ConnectionError",
    "EndpointConnectionError",
    "HTTPClientError",
    "IncompleteReadError",
    "ReadTimeoutError",
    "ResponseParserError",  # an answer cut short, or a page of a proxy in its place
    "ResponseStreamingError",
}

# Answers of 4xx that pass: bodies damaged on the way, two conditional writes at once, throttling.
_TRANSIENT_CODES = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "OperationAborted",
    "RequestTimeout",
    "RequestTimeoutException",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "XAmzContentSHA256Mismatch",
}

_REMEDIES = {
    "AuthorizationHeaderMalformed": "Set AWS_REGION (or AWS_DEFAULT_REGION) to the region of the bucket.",
    "ExpiredToken": "The session has expired: get new temporary credentials and run again.",
    "ExpiredTokenException": "The session has expired: get new temporary credentials and run again.",
    "InvalidAccessKeyId": "The server does not know the access key: check AWS_ACCESS_KEY_ID or the profile.",
    "InvalidToken": "The session token is wrong: get new temporary credentials, or unset AWS_SESSION_TOKEN.",
    "NoSuchBucket": "Create the bucket, or correct its name; check AWS_ENDPOINT_URL too.",
    "PreconditionFailed": "It was replaced while it was read; run again when nobody writes it.",
    "RequestTimeTooSkewed": "Correct the clock of this machine.",
    "SignatureDoesNotMatch": "The secret key is wrong: check AWS_SECRET_ACCESS_KEY or the profile.",
    "TokenRefreshRequired": "The session has expired: get new temporary credentials and run again.",
}
_CHECK_ACCESS = "Check the permissions and, for S3, the AWS environment variables or profile."

_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"}
_BAD_SETTINGS = {"ProfileNotFound", "InvalidConfigError", "ConfigParseError", "ParamValidationError"}

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_SECRET_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_SECRET_PATTERN = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|(?<=X-Amz-Credential=)[^&\s]+|(?<=X-Amz-Signature=)[^&\s]+"
    r"|(?<=X-Amz-Security-Token=)[^&\s]+|(?<=://)[^/@\s]+(?=@)"
)


@contextlib.contextmanager
def storage_errors(location: object, operation: str) -> Iterator[None]:
    """Turn what a filesystem raises into an error that names the place and the operation.

    Raises
    ------
    InputError
        The place is missing, full, or access to it is refused or impossible.
    TransientStorageError
        The failure may pass: time-out, connection reset, throttling, a 5xx answer.
    """
    try:
        yield
    except EsmergeError:
        raise
    except Exception as error:
        known = _sorted(error, location, operation)
        if known is None:
            raise
        # A chain is printed whole by whoever logs the error, so one that tells a secret is cut.
        tells = any(_scrubbed(str(link), error) != str(link) for link in chain(error))
        raise known from (None if tells else error)


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later."""
    response = _response(error)
    if response is not None:
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return error_code(error) in _TRANSIENT_CODES or status == 429 or (status >= 500 and status != 501)
    for link in chain(error):
        if isinstance(link, TransientStorageError | TimeoutError | ConnectionError):
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


def error_code(error: BaseException) -> str:
    """The code that an S3 server gave, such as ``NoSuchKey``; empty where no server answered."""
    response = _response(error)
    return "" if response is None else str(response.get("Error", {}).get("Code", ""))


def times_repeated(error: BaseException) -> int:
    """How often botocore had sent the request before the one that got this answer."""
    response = _response(error)
    return 0 if response is None else int(response.get("ResponseMetadata", {}).get("RetryAttempts", 0))


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


def _sorted(error: Exception, location: object, operation: str) -> EsmergeError | None:
    said = _scrubbed(" ".join(str(error).split()), error)
    if isinstance(error, OSError) and error.errno in _FULL:
        limit = " for this process (a limit on the size of its files)" if error.errno == errno.EFBIG else ""
        return InputError(
            f"{location}: cannot {operation} it: the disk is full{limit}. Free some space on "
            f"{platform.node()} and run again; what is finished is kept."
        )
    if is_transient(error):
        return TransientStorageError(
            f"{location}: could not {operation} it for now ({type(error).__name__}: {said}). "
            f"Storage is overloaded or not reachable; run again, what is finished is kept."
        )
    response = _response(error)
    if response is not None and error_code(error) in _REMEDIES:
        return InputError(f"{location}: {_refusal(error, location)}. {_REMEDIES[error_code(error)]}")
    if isinstance(error, FileNotFoundError):
        return InputError(f"{location}: no such file, folder or bucket (tried to {operation} it).")
    if isinstance(error, PermissionError):
        request = f": {_refusal(error, location)}" if response is not None else ""
        return InputError(f"{location}: access refused (tried to {operation} it){request}. {_CHECK_ACCESS}")
    if isinstance(error, IsADirectoryError | NotADirectoryError | FileExistsError):
        return InputError(f"{location}: cannot {operation} it: {error.strerror or said}.")
    names = {type(link).__name__ for link in chain(error)}
    if names & _NO_CREDENTIALS:
        return InputError(
            f"{location}: no AWS credentials were found. Set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
        )
    if names & _BAD_SETTINGS or "Invalid endpoint" in said:
        return InputError(
            f"{location}: cannot {operation} it: {said}. Check the AWS environment variables or profile."
        )
    if isinstance(error, OSError):
        return InputError(f"{location}: cannot {operation} it: {said}.")
    return None


def _refusal(error: Exception, location: object) -> str:
    """Which operation on which bucket was answered how."""
    bucket = str(location).removeprefix("s3://").split("/")[0]
    operation = next(
        (str(link.operation_name) for link in chain(error) if hasattr(link, "operation_name")), ""
    )
    return f"{operation} on bucket {bucket} was answered {error_code(error)}"


def _response(error: BaseException) -> dict[str, Any] | None:
    for link in chain(error):
        if type(link).__module__.startswith("botocore") and isinstance(getattr(link, "response", None), dict):
            return link.response  # type: ignore[attr-defined,no-any-return]  # a ClientError
    return None


def _scrubbed(text: str, error: Exception) -> str:
    """``text`` without the credentials in use, those the server echoed, and what looks like one."""
    echoed = ((_response(error) or {}).get("Error") or {}).get("AWSAccessKeyId")
    for secret in (*map(os.environ.get, _SECRET_VARIABLES), echoed):
        if secret:
            text = text.replace(str(secret), "***")
    return _SECRET_PATTERN.sub("***", text)
