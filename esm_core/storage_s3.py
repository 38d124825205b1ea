"""S3 below :class:`~esm_core.storage.Location`: bounded patience, whole bodies, uploads in one step.

Notes
-----
botocore alone repeats requests (standard mode: time-outs, resets, throttling, 5xx), so that no layer
multiplies another; s3fs's own repetition is off. What botocore cannot repeat is an answer whose body
breaks off: :meth:`SteadyS3._cat_file` asks again, and believes no body that is shorter than was said. One
operation so sends at most ``ATTEMPTS`` requests, a read ``ATTEMPTS * BODY_ATTEMPTS``.
"""

import asyncio
import contextlib
import hashlib
import io
import logging
import os
import random
import re
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import s3fs
from aiohttp import ClientError as BodyError
from botocore.exceptions import HTTPClientError  # type: ignore[import-untyped]

from esm_core.errors import TransientStorageError
from esm_core.storage_errors import error_code, is_transient, times_repeated

ATTEMPTS = 6  # of one request, with pauses of up to 1, 2, 4, 8 and 16 s: an outage of some seconds passes
BODY_ATTEMPTS = 4  # of a body that breaks off
CONNECT_TIMEOUT = 5  # seconds
READ_TIMEOUT = 20  # seconds without a byte
PART_BYTES = 32 * 1024**2  # of an upload in parts, and of ranges read at the same time

_patient: ContextVar[bool] = ContextVar("patient", default=True)


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    """Within, requests are sent once and waited for a few seconds: somebody wants to know now."""
    token = _patient.set(False)
    try:
        yield
    finally:
        _patient.reset(token)


class SteadyS3(s3fs.S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """s3fs whose reads are whole: what was asked for, of one version of the object, or an error."""

    retries = 1  # each layer's repetitions multiply the other's; botocore does it

    async def _call_s3(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        # An error whose text breaks off is beyond botocore, which reads it after it has decided.
        once = "IfNoneMatch" in keywords  # then a repetition would meet what the first one made
        for attempt in range(1, BODY_ATTEMPTS + 1):
            try:
                return await super()._call_s3(method, *arguments, **keywords)
            except BodyError:
                if once or attempt == BODY_ATTEMPTS:
                    raise
            await _pause(attempt)
        raise AssertionError("unreachable")

    async def _cat_file(
        self,
        path: str,
        version_id: str | None = None,
        start: int | None = None,
        end: int | None = None,
        etag: str | None = None,
        **_: Any,
    ) -> bytes:
        if start is not None and end is not None and 0 <= end <= start:
            return b""  # no HTTP header says an empty range
        bucket, key, _version = self.split_path(path)
        request: dict[str, Any] = {"Bucket": bucket, "Key": key}
        if start is not None or end is not None:
            request["Range"] = await self._process_limits(path, start, end)
        if etag is not None:
            request["IfMatch"] = etag
        for attempt in range(1, BODY_ATTEMPTS + 1):
            body = None
            try:
                answer = await super()._call_s3("get_object", **request)
                size, body = answer["ContentLength"], answer["Body"]
                if "Range" not in request and size > 2 * PART_BYTES:
                    return await self._cat_parts(path, size, answer["ETag"])
                data: bytes = await body.read()
                if len(data) == size and _is_range(answer, start, end):
                    return data
                raise ConnectionError(f"{len(data)} bytes came of {size}")
            except (BodyError, HTTPClientError, ConnectionError, TimeoutError) as error:
                # botocore has been patient already with requests that nothing came of.
                given_up = body is None and not isinstance(error, BodyError)
                if given_up or attempt == BODY_ATTEMPTS:
                    raise
            finally:
                if body is not None:
                    body.close()
            await _pause(attempt)
        raise AssertionError("unreachable")

    async def _cat_parts(self, path: str, size: int, etag: str) -> bytes:
        """A large object by ranges, a few at a time, all of the same version."""
        starts = range(0, size, PART_BYTES)
        whole, free = bytearray(size), asyncio.Semaphore(4)

        async def part(start: int) -> None:
            async with free:
                end = min(start + PART_BYTES, size)
                whole[start:end] = await self._cat_file(path, start=start, end=end, etag=etag)

        await asyncio.gather(*(part(start) for start in starts))
        return bytes(whole)


async def _pause(attempt: int) -> None:
    await asyncio.sleep(random.uniform(0, 0.2 * 2**attempt))  # noqa: S311  jitter, no secret


def filesystem(asynchronous: bool = False) -> SteadyS3:
    """The S3 filesystem of this process, for this endpoint; it never caches a listing.

    ``AWS_MAX_ATTEMPTS`` and ``AWS_RETRY_MODE`` override the number and the manner of repetitions.
    """
    # At DEBUG it writes the headers it signs, key id and session token among them, wherever DEBUG goes.
    for name in ("botocore", "aiobotocore"):
        logging.getLogger(name).setLevel(max(logging.getLogger(name).level, logging.INFO))
    retries: dict[str, Any] = {}
    patient = _patient.get()
    # botocore ranks what code says above the environment, so code says nothing where the environment does.
    if not patient:
        retries["total_max_attempts"] = 1
    elif "AWS_MAX_ATTEMPTS" not in os.environ:
        retries["total_max_attempts"] = ATTEMPTS
    if "AWS_RETRY_MODE" not in os.environ:
        retries["mode"] = "standard"
    waiting = READ_TIMEOUT if patient else CONNECT_TIMEOUT
    config = {"connect_timeout": CONNECT_TIMEOUT, "read_timeout": waiting, "retries": retries}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    # The endpoint is given so that instances, which s3fs keeps by their arguments, differ by it.
    return SteadyS3(
        use_listings_cache=False, asynchronous=asynchronous, endpoint_url=endpoint, config_kwargs=config
    )


def bucket_is_missing(fs: SteadyS3, path: str) -> bool:
    """Whether the server says that there is no such bucket; ``False`` where it only says nothing of it."""
    try:
        fs.call_s3("head_bucket", Bucket=fs.split_path(path)[0])
    except FileNotFoundError:
        return True
    except PermissionError:
        return False
    return False


def put_if_absent(fs: SteadyS3, path: str, data: bytes) -> bool:
    """Create the object, or find that another has; a lost answer is settled by reading it back."""
    bucket, key, _ = fs.split_path(path)
    try:
        fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        return True
    except Exception as error:
        lost = error_code(error) in ("PreconditionFailed", "412")
        if lost and not times_repeated(error):
            return False
        conflict = error_code(error) in ("ConditionalRequestConflict", "409")
        if not (lost or conflict or is_transient(error)):
            raise
        # It was sent more than once, or its answer is lost, or another creation was under way: look.
        with contextlib.suppress(FileNotFoundError):
            return bool(fs.cat_file(path) == data)
        raise


def delete_all(fs: SteadyS3, path: str) -> None:
    """Delete the object, and everything below it; s3fs says nothing of objects it may not delete."""
    bucket, key, _ = fs.split_path(path)
    keys = [fs.split_path(name)[1] for name in fs.find(path)]
    found = [{"Key": name} for name in keys if name == key or _below(name, key)]
    for first in range(0, len(found), 1000):
        objects = found[first : first + 1000]
        answer = fs.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
        for refusal in answer.get("Errors", []):
            code, name = refusal.get("Code"), refusal.get("Key")
            if code in ("InternalError", "SlowDown", "ServiceUnavailable"):
                raise ConnectionError(f"{code} for {name}")
            if code != "NoSuchKey":
                raise PermissionError(f"DeleteObjects: {code} for {name}")


def _below(name: str, folder: str) -> bool:
    return not folder or name.startswith(folder.rstrip("/") + "/")


@contextlib.contextmanager
def uploading(fs: SteadyS3, path: str) -> Iterator["Upload"]:
    """A stream to an object that appears when the block ends without an error."""
    upload = Upload(fs, path)
    try:
        yield upload
        upload.commit()
    except BaseException:
        upload.discard()
        raise


class Upload(io.RawIOBase):
    """Bytes on their way to an object: one request where they are few, in parts where they are many."""

    def __init__(self, fs: SteadyS3, path: str) -> None:
        self._fs, self._path, self._size = fs, path, 0
        bucket, key, _ = fs.split_path(path)
        self._place = {"Bucket": bucket, "Key": key}
        self._buffer = bytearray()
        self._upload: dict[str, str] = {}
        self._tags: list[str] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        for first in range(0, len(view), PART_BYTES):  # so that the buffer never exceeds two parts
            self._buffer += view[first : first + PART_BYTES]
            if len(self._buffer) >= PART_BYTES:
                self._send(PART_BYTES)
        self._size += len(view)
        return len(view)

    def commit(self) -> None:
        """Make the object appear."""
        if not self._upload:
            self._fs.call_s3("put_object", Body=bytes(self._buffer), **self._place)
            return
        if self._buffer:
            self._send(len(self._buffer))
        parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(self._tags, 1)]
        try:
            whole = {"MultipartUpload": {"Parts": parts}}
            self._fs.call_s3("complete_multipart_upload", **self._place, **self._upload, **whole)
        except FileNotFoundError as error:  # done by a request whose answer was lost, or gone
            if not self._is_there():
                raise TransientStorageError(
                    f"s3://{self._path}: its upload in parts is gone before it was completed."
                ) from error
        self._upload = {}

    def discard(self) -> None:
        """Forget what was sent."""
        if self._upload:
            # What made the block fail matters more; a lifecycle rule of the bucket removes what is left.
            with contextlib.suppress(Exception):
                self._fs.call_s3("abort_multipart_upload", **self._place, **self._upload)
            self._upload = {}

    def _send(self, count: int) -> None:
        if not self._upload:
            answer = self._fs.call_s3("create_multipart_upload", **self._place)
            self._upload = {"UploadId": answer["UploadId"]}
        body, number = bytes(self._buffer[:count]), len(self._tags) + 1
        answer = self._fs.call_s3("upload_part", PartNumber=number, Body=body, **self._place, **self._upload)
        self._tags.append(answer["ETag"])
        del self._buffer[:count]

    def _is_there(self) -> bool:
        digests = [tag.strip('"') for tag in self._tags]
        if not all(re.fullmatch(r"[0-9a-f]{32}", digest) for digest in digests):
            return False  # encrypted with a key of one's own: no way to tell
        joined = hashlib.md5(bytes.fromhex("".join(digests)), usedforsecurity=False).hexdigest()
        found = self._fs.info(self._path)
        return bool(found["size"] == self._size and found["ETag"].strip('"') == f"{joined}-{len(digests)}")


def _is_range(answer: dict[str, Any], start: int | None, end: int | None) -> bool:
    """Whether the answer is all of the range that was asked for, up to the end of the object."""
    said = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.get("ContentRange", ""))
    if start is None and end is None:
        return said is None
    if said is None:
        return False
    first, last, total = (int(number) for number in said.groups())
    if (start or 0) < 0 or (end or 0) < 0:
        return True  # counted from the end; no one here does
    return first == (start or 0) and last + 1 == min(total if end is None else end, total)
