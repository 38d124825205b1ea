"""Reading an object on S3 as a file, by ranges of one version of it."""

import errno
import io
from typing import Any

from esm_core.storage_errors import storage_errors
from esm_core.storage_s3 import SteadyS3

READ_AHEAD = 8 * 1024**2


class ObjectReader(io.RawIOBase):
    """One version of an object by ranges; an object that is replaced meanwhile is an error."""

    def __init__(self, fs: SteadyS3, path: str) -> None:
        self._fs, self._path, self._position = fs, path, 0
        with storage_errors(f"s3://{path}", "read"):
            found = fs.info(path)
            if found["type"] != "file":
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
        self._size, self._etag = int(found["size"]), found["ETag"]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"cannot seek to {start + offset}")
        self._position = start + offset
        return self._position

    def readinto(self, target: Any) -> int:
        start = self._position
        end = min(start + len(target), self._size)
        if end <= start:
            return 0
        with storage_errors(f"s3://{self._path}", "read"):
            data = self._fs.cat_file(self._path, start=start, end=end, etag=self._etag)
        target[: len(data)] = data
        self._position = end
        return len(data)
