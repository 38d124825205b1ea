"""Places that bytes live: one small type over fsspec for local folders and S3.

A :class:`Location` is a URL and nothing more, so it can be sent to another machine. The filesystem
behind it is made where it is used, because s3fs does not survive a fork.

Every method raises :class:`~esm_core.errors.TransientStorageError` where storage fails in a way that may
pass, after the patience that :mod:`esm_core.storage_s3` states, and :class:`~esm_core.errors.InputError`
where it will not: nothing there, access refused, disk full.

Notes
-----
S3 access (keys, profile, region, ``AWS_ENDPOINT_URL``) comes from the standard AWS environment
only. A URL that carries credentials is refused, so none can reach a manifest or a log.
"""

import contextlib
import hashlib
import io
import json
import os
import posixpath
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, cast

import fsspec
from fsspec.spec import AbstractFileSystem

from esm_core.errors import InputError
from esm_core.storage_errors import storage_errors

if TYPE_CHECKING:  # s3fs is optional
    from esm_core.storage_s3 import SteadyS3

_STEP = 64 * 2**20
"""Bytes of a request to S3: what is held beside what it is copied to."""


@dataclass(frozen=True, order=True)
class Location:
    """A file or folder, local (``file://``) or on S3 (``s3://``).

    Parameters
    ----------
    url : str
        Absolute URL without a trailing slash. Use :meth:`parse` for what people write.
    """

    url: str

    @classmethod
    def parse(cls, text: str, relative_to: "Location | None" = None) -> "Location":
        """Read a URL or a path; a relative path is taken from ``relative_to`` or the working folder.

        Raises
        ------
        InputError
            For an empty text, another scheme than ``file`` and ``s3``, or credentials in the URL.
        """
        if not text.strip():
            raise InputError("A path or URL is empty; give a path, file:// or s3:// URL.")
        if "\0" in text:
            raise InputError("A path or URL holds a NUL character; give a path, file:// or s3:// URL.")
        scheme, separator, rest = text.partition("://")
        if not separator:
            if text.startswith(("s3:", "file:")):
                raise InputError("A URL begins with s3:// or file://, with two slashes.")
            if relative_to is None or os.path.isabs(os.path.expanduser(text)):
                return cls("file://" + os.path.abspath(os.path.expanduser(text)))
            scheme, _, folder = relative_to.url.partition("://")
            root, _, path = folder.partition("/")
            return cls(_normal(scheme, root, posixpath.join(path, text)))
        if scheme not in ("file", "s3"):
            # Only what can be a scheme is repeated; anything else may be part of a credential.
            shown = f"{scheme}://" if scheme.isalnum() and len(scheme) < 10 else "This kind of URL"
            raise InputError(f"{shown} is not supported; use a path, file:// or s3://.")
        root, _, path = rest.partition("/")
        # A secret may hold a slash, so that the @ comes after what looks like the bucket.
        signed = scheme == "s3" and "?" in rest
        if "@" in root or (":" in root and "@" in path) or signed:
            raise InputError(
                f"The {scheme}:// URL carries credentials or a query; remove them and use the AWS "
                "environment variables or a profile."
            )
        if scheme == "s3" and not root.replace("-", "").replace(".", "").replace("_", "").isalnum():
            raise InputError(
                "An s3:// URL needs a bucket of letters, digits, '.', '_' and '-': s3://bucket/folder."
            )
        bucket = root if scheme == "s3" else ""
        return cls(_normal(scheme, bucket, path))

    def __truediv__(self, part: str) -> "Location":
        """What is below this place; :class:`InputError` for a part that leads out of it."""
        if {".", ".."} & set(part.split("/")) or "\0" in part:
            raise InputError(f"{self}: {part!r} would lead out of this folder.")
        return Location(f"{self.url}/{part.strip('/')}")

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]

    @property
    def parent(self) -> "Location":
        return Location(self.url.rsplit("/", 1)[0])

    @property
    def is_local(self) -> bool:
        return self.url.startswith("file://")

    @property
    def path(self) -> str:
        """What the filesystem calls this place (no scheme)."""
        return self.url.split("://", 1)[1]

    @property
    def fs(self) -> AbstractFileSystem:
        """The filesystem, one cached instance per process, never caching a listing."""
        return fsspec.filesystem("file") if self.is_local else self._s3

    @property
    def _s3(self) -> "SteadyS3":
        try:
            from esm_core.storage_s3 import filesystem
        except ImportError as error:
            raise InputError(f"{self}: S3 needs s3fs. Install it with: pip install 'esmerge[s3]'") from error
        return filesystem()

    def read_bytes(self, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes from ``start`` up to ``end`` (the whole file by default)."""
        with storage_errors(self, "read"):
            data: bytes = self.fs.cat_file(self.path, start=start, end=end)
            return data

    def read_into(self, start: int, target: memoryview) -> int:
        """Fill ``target`` with the bytes from ``start`` on; how many there were, if fewer than it takes."""
        with storage_errors(self, "read"):
            if self.is_local:
                with open(self.path, "rb") as stream:
                    stream.seek(start)
                    return stream.readinto(target)
            filled = 0
            for begin in range(0, len(target), _STEP):
                piece = target[begin : begin + _STEP]
                part = self.fs.cat_file(self.path, start=start + begin, end=start + begin + len(piece))
                piece[: len(part)] = part
                filled += len(part)
                if len(part) < len(piece):
                    break
            return filled

    def size(self) -> int:
        """Size in bytes; :class:`InputError` where there is no such file."""
        with storage_errors(self, "read"):
            info = self.fs.info(self.path)
        if info["type"] != "file":
            raise InputError(f"{self}: is a folder, but a file was expected.")
        return int(info["size"])

    def fingerprint(self) -> str:
        """A cheap identity of the file or folder: sizes and times, or ETags; no content is read.

        A changed content changes it (locally the change time is part of it, which no copy preserves).
        """
        with storage_errors(self, "look up"):
            info = self.fs.info(self.path)
            entries = {self.path: info}
            if info["type"] == "directory":
                entries = self.fs.find(self.path, detail=True)
        facts = []
        for name in sorted(entries):
            entry = entries[name]
            stamps = [entry.get(key) for key in ("ETag", "size", "mtime", "created", "ino")]
            facts.append([name, *map(str, stamps)])
        return hashlib.sha256(json.dumps([self.url, facts]).encode()).hexdigest()

    def sha256(self) -> str:
        """sha256 (hex) of the file's bytes, read in pieces."""
        digest = hashlib.sha256()
        with self.open() as stream, storage_errors(self, "read"):
            while piece := stream.read(1024**2):
                digest.update(piece)
        return digest.hexdigest()

    def is_file(self) -> bool:
        return self._type() == "file"

    def is_dir(self) -> bool:
        return self._type() == "directory"

    def _type(self) -> str | None:
        # Not fs.isfile or fs.isdir: they answer False to every error, a lost connection included.
        with storage_errors(self, "look up"):
            try:
                return str(self.fs.info(self.path)["type"])
            except (FileNotFoundError, NotADirectoryError):
                return None

    def files(self) -> list[str]:
        """Every file below this folder, as sorted relative paths; empty where there is none."""
        return sorted(self.entries())

    def children(self) -> list[str]:
        """Names of the direct entries of this folder, sorted; empty where there is none."""
        with storage_errors(self, "list"):
            try:
                entries = self.fs.ls(self.path, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        own = self.path.rstrip("/")
        return sorted({str(e).rstrip("/").rsplit("/", 1)[-1] for e in entries if str(e).rstrip("/") != own})

    def write_bytes(self, data: bytes) -> None:
        """Write or replace the file in one step: a reader sees the old bytes or the new ones."""
        if not self.is_local and len(data) < 64 * 1024**2:
            with storage_errors(self, "write"):
                self._s3.pipe_file(self.path, data)
            return
        with self.writer() as stream:
            stream.write(data)

    def create(self, data: bytes) -> bool:
        """Write the file only if it is absent. Exactly one of many concurrent callers gets ``True``.

        Notes
        -----
        Locally the bytes go to a temporary file that is hard-linked into place, so a reader never
        sees part of them; on S3 a conditional PUT does both. Where the answer to that PUT was lost, the
        object is read back: it is ours if it holds exactly ``data``, so give every caller other bytes.
        """
        with storage_errors(self, "write"):
            if self.is_local:
                return self._create_local(data)
            from esm_core.storage_s3 import put_if_absent

            return put_if_absent(self._s3, self.path, data)

    def _create_local(self, data: bytes) -> bool:
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        temporary = f"{self.path}.{uuid.uuid4().hex}.tmp"
        try:
            with open(temporary, "xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.link(temporary, self.path)
        except FileExistsError:
            return False
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        return True

    @contextlib.contextmanager
    def writer(self) -> Iterator[IO[bytes]]:
        """A stream to a file that appears only when the block ends without an error."""
        with storage_errors(self, "write"):
            if self.is_local:
                os.makedirs(os.path.dirname(self.path), exist_ok=True)
                temporary = f"{self.path}.{uuid.uuid4().hex}.tmp"
                try:
                    with open(temporary, "xb") as stream:
                        yield stream
                        stream.flush()
                        os.fsync(stream.fileno())
                    os.replace(temporary, self.path)
                finally:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(temporary)
                return
            from esm_core.storage_s3 import uploading

            with uploading(self._s3, self.path) as stream:
                yield cast(IO[bytes], stream)

    def open(self) -> IO[bytes]:
        """A seekable stream for reading; what it gives is never silently short, or of two objects."""
        with storage_errors(self, "read"):
            if self.is_local:
                stream: IO[bytes] = open(self.path, "rb")  # noqa: SIM115  the caller closes it
                return stream
            from esm_core.storage_s3_reader import READ_AHEAD, ObjectReader

            return io.BufferedReader(ObjectReader(self._s3, self.path), READ_AHEAD)

    def delete(self) -> None:
        """Remove the file or the whole folder; nothing happens where there is none."""
        with storage_errors(self, "delete"), contextlib.suppress(FileNotFoundError):
            if self.is_local:
                self.fs.rm(self.path, recursive=True)
                return
            from esm_core.storage_s3 import delete_all

            delete_all(self._s3, self.path)

    def entries(self) -> dict[str, tuple[int, datetime]]:
        """Relative path → bytes and time of the last change, for every file below this folder."""
        with storage_errors(self, "list"):
            prefix = self.path.rstrip("/") + "/"
            found = self.fs.find(self.path, detail=True)
        changed = {path: facts.get("mtime", facts.get("LastModified")) for path, facts in found.items()}
        return {
            path[len(prefix) :]: (
                int(found[path]["size"]),
                time if isinstance(time, datetime) else datetime.fromtimestamp(time, UTC),
            )
            for path, time in changed.items()
            if path.startswith(prefix) and not path.endswith("/")
        }


def _normal(scheme: str, root: str, path: str) -> str:
    normal = posixpath.normpath("/" + path.lstrip("/"))
    return f"{scheme}://{root}{'' if root and normal == '/' else normal}"
