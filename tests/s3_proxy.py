"""An S3 endpoint that misbehaves: a proxy in front of the real one, with faults that a test chooses.

Requests reach the real server as they were signed (the signature covers the Host header, which is passed
on), so what the server stores is what clients sent.
"""

import asyncio
import io
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import aiohttp
from aiohttp import web
from yarl import URL

_ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
_KINDS = ("error_500", "slow_down", "reset_before", "reset_after", "stall", "truncate")


@dataclass
class Faults:
    """What goes wrong: each share is the chance that a request meets that fault.

    ``refused`` names operations (such as ``PutObject``, or ``*``) that are answered with ``refusal``.
    ``only`` limits the random faults to operations; ``script`` is used up first, one fault per request
    that it applies to (``""`` lets one pass).
    """

    error_500: float = 0.0
    slow_down: float = 0.0
    reset_before: float = 0.0  # the server never sees the request
    reset_after: float = 0.0  # the server has done it, the answer is lost
    stall: float = 0.0
    truncate: float = 0.0  # less body than Content-Length says, then the connection ends
    stall_seconds: float = 2.0
    refused: tuple[str, ...] = ()
    refusal: str = "AccessDenied"
    refusal_extra: str = ""
    only: tuple[str, ...] = ()
    script: list[str] = field(default_factory=list)
    down: bool = False  # every connection is reset at once


class FaultyProxy:
    """Runs in a thread of its own; ``faults`` may be replaced at any time."""

    def __init__(self, upstream: str, seed: int = 0) -> None:
        self.upstream, self.faults = upstream, Faults()
        self.requests: Counter[str] = Counter()  # per operation, as they arrived
        self.injected: Counter[str] = Counter()  # per fault
        self.cut_bodies = 0  # of the answers that were to be truncated, those that had a body
        self._random = random.Random(seed)
        self._ready, self._loop = threading.Event(), asyncio.new_event_loop()
        self.endpoint = ""

    def start(self, port: int = 0) -> None:
        self._thread = threading.Thread(target=self._run, args=(port,), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)

    def reset_counts(self) -> None:
        self.requests.clear()
        self.injected.clear()
        self.cut_bodies = 0

    def _run(self, port: int) -> None:
        self._loop.run_until_complete(self._serve(port))
        self._loop.close()

    async def _serve(self, port: int) -> None:
        self._stopped = asyncio.Event()
        timeout = aiohttp.ClientTimeout(total=120)
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as self._client:
            server = web.Server(self._handle, access_log=None)
            runner = web.ServerRunner(server, shutdown_timeout=0.5)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", port)
            await site.start()
            assert site._server is not None
            number = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
            self.endpoint = f"http://127.0.0.1:{number}"
            self._ready.set()
            await self._stopped.wait()
            await runner.cleanup()
        # Connections that were reset on purpose leave their handlers waiting.
        waiting = asyncio.all_tasks() - {asyncio.current_task()}
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        operation = operation_of(request.method, request.raw_path, dict(request.headers))
        self.requests[operation] += 1
        faults = self.faults
        if faults.down:
            return self._reset(request, "down")
        if operation in faults.refused or "*" in faults.refused:
            self.injected["refused"] += 1
            return _error(403, faults.refusal, "Access Denied." + faults.refusal_extra, request.method)
        fault = self._draw(operation)
        if fault:
            self.injected[fault] += 1
        if fault == "reset_before":
            return self._reset(request, "")
        if request.headers.get("Expect", "").lower() == "100-continue":
            assert request.transport is not None
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # type: ignore[attr-defined]
        body = await request.content.read()  # request.read() refuses large ones
        if fault == "error_500":
            return _error(500, "InternalError", "We encountered an internal error.", request.method)
        if fault == "slow_down":
            return _error(503, "SlowDown", "Please reduce your request rate.", request.method)
        if fault == "stall":
            await asyncio.sleep(faults.stall_seconds)
        headers = {name: value for name, value in request.headers.items() if name != "Expect"}
        headers["Content-Length"] = str(len(body))
        url = URL(self.upstream + request.raw_path, encoded=True)
        async with self._client.request(
            request.method,
            url,
            headers=headers,
            data=io.BytesIO(body) if body else None,
            allow_redirects=False,
        ) as answer:
            data = await answer.read()
            headers = {k: v for k, v in answer.headers.items() if k not in ("Transfer-Encoding", "Date")}
            status = answer.status
        if fault == "reset_after":
            return self._reset(request, "")
        if fault == "truncate" and len(data) > 1:
            return await self._truncated(request, status, headers, data)
        if request.method == "HEAD":
            response = web.StreamResponse(status=status, headers=headers)
            response.content_length = int(headers.get("Content-Length", 0))
            return response
        headers.pop("Content-Length", None)
        return web.Response(status=status, headers=headers, body=data)

    def _draw(self, operation: str) -> str:
        faults = self.faults
        if faults.only and operation not in faults.only:
            return ""
        if faults.script:
            return faults.script.pop(0)
        draw = self._random.random()
        for kind in _KINDS:
            draw -= getattr(faults, kind)
            if draw < 0:
                return kind
        return ""

    def _reset(self, request: web.BaseRequest, kind: str) -> web.StreamResponse:
        if kind:
            self.injected[kind] += 1
        transport = request.transport
        if transport is not None:
            # Closing a socket that lingers for zero seconds sends RST in place of FIN.
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        return web.Response(status=500)

    async def _truncated(
        self, request: web.BaseRequest, status: int, headers: dict[str, str], data: bytes
    ) -> web.StreamResponse:
        self.cut_bodies += 1
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = len(data)
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        assert request.transport is not None
        request.transport.close()
        return response


def operation_of(method: str, raw_path: str, headers: dict[str, str]) -> str:
    """The S3 operation of a request, as the API names it."""
    parts = urlsplit(raw_path)
    query = parse_qs(parts.query, keep_blank_values=True)
    key = parts.path.strip("/").partition("/")[2]
    if not key:
        if method == "GET":
            return "ListObjectsV2" if "list-type" in query else "GetBucket"
        if method == "POST" and "delete" in query:
            return "DeleteObjects"
        return {"PUT": "CreateBucket", "HEAD": "HeadBucket", "DELETE": "DeleteBucket"}.get(method, method)
    if method == "POST":
        return "CreateMultipartUpload" if "uploads" in query else "CompleteMultipartUpload"
    if method == "PUT":
        return "UploadPart" if "partNumber" in query else "PutObject"
    if method == "DELETE":
        return "AbortMultipartUpload" if "uploadId" in query else "DeleteObject"
    return {"GET": "GetObject", "HEAD": "HeadObject"}.get(method, method)


def meant(faults: Faults) -> set[str]:
    """The random faults that have a share."""
    return {kind for kind in _KINDS if getattr(faults, kind)}


def _error(status: int, code: str, message: str, method: str) -> web.Response:
    body = b"" if method == "HEAD" else _ERROR.format(code=code, message=message).encode()
    return web.Response(status=status, body=body, content_type="application/xml")


@contextmanager
def faulty_proxy(upstream: str, seed: int = 0) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(upstream, seed)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
