"""Files written by ``torch.save``: state dicts only, nothing that could run code."""

import contextlib
import os
import pickle
import pickletools
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from esm_core.checkpoints.base import DTYPE_NAMES, Checkpoint, TensorInfo
from esm_core.errors import InputError, raise_together
from esm_core.storage import Location
from esm_core.storage_errors import storage_errors

ZIP_MAGIC = b"PK\x03\x04"
NESTED_UNDER = ("state_dict", "model_state_dict", "model")
_REFUSED = re.compile(r"GLOBAL|is blocked|Can only (create|build)|must be imported to load|\.tar format")
# A file of torch.save before 1.6: magic number, version, platform, then the object.
_LEGACY_PICKLES = 4
_TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


class TorchFile(Checkpoint):
    """A ``.pt``, ``.pth``, ``.bin`` or ``.ckpt`` file that holds a state dict.

    A state dict below ``state_dict``, ``model_state_dict`` or ``model`` is found too, and ``module.``
    is stripped where every name has it.

    Parameters
    ----------
    location : Location
        The file. A local one is mapped into memory; one on S3 is downloaded to a temporary file first.

    Raises
    ------
    InputError
        The file is missing or damaged, holds a pickled object, or holds no tensors esmerge can use.
    """

    lazy = False

    def __init__(self, location: Location) -> None:
        self.location = location
        size = location.size()
        self._values = find_state_dict(_load(location), location)
        self._tensors = usable_tensors(self._values, location)
        for name, info in self._tensors.items():
            # A stored stride of zero makes a tensor of any size out of one number.
            if info.nbytes > size:
                raise InputError(
                    f"{location}: tensor {name!r} claims {info.nbytes} bytes, but the file has {size}. "
                    "Save it again with .contiguous() tensors."
                )

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._tensors

    @property
    def metadata(self) -> Mapping[str, str]:
        return {}

    def read(self, name: str) -> Tensor:
        self._info(name)
        # A clone, so that what the caller does to it never reaches this checkpoint or a tied tensor.
        return self._values[name].detach().clone(memory_format=torch.contiguous_format)


def find_state_dict(loaded: object, location: Location) -> dict[str, Tensor]:
    """The named tensors in what a file held: itself, or nested under a usual key.

    Raises
    ------
    InputError
        There are none.
    """
    for _ in range(len(NESTED_UNDER)):
        if not isinstance(loaded, Mapping):
            break
        nested = [loaded[key] for key in NESTED_UNDER if isinstance(loaded.get(key), Mapping)]
        loaded = next((inner for inner in nested if inner), loaded)
    items = loaded.items() if isinstance(loaded, Mapping) else ()
    found = {k: v for k, v in items if isinstance(k, str) and isinstance(v, Tensor)}
    if not found:
        what = f"a {type(loaded).__name__}" if not isinstance(loaded, Mapping) else _describe_keys(loaded)
        raise InputError(
            f"{location}: holds no named tensors ({what}). Save model.state_dict(), at the top or under one "
            f"of {', '.join(NESTED_UNDER)}."
        )
    if all(name.startswith("module.") for name in found):
        return {name.removeprefix("module."): value for name, value in found.items()}
    return found


def usable_tensors(values: Mapping[str, Tensor], location: Location) -> dict[str, TensorInfo]:
    """Shape and dtype of every tensor in ``values``.

    Raises
    ------
    InputError
        Naming every tensor that is sparse, quantised, complex or without data.
    """
    problems = []
    for name, value in values.items():
        if value.layout != torch.strided or value.dtype not in DTYPE_NAMES or value.device.type == "meta":
            kind = f"{value.dtype}, {value.layout}, {value.device.type}"
            problems.append(f"{location}: tensor {name!r} is not a plain tensor ({kind}); save it as one.")
    raise_together(problems)
    return {name: TensorInfo(tuple(value.shape), value.dtype) for name, value in values.items()}


def is_plain_pickle(path: str) -> bool:
    """Whether the file is a pickle that ``torch.save`` did not write; looks without unpickling."""
    with open(path, "rb") as stream:
        head = stream.read(len(_TORCH_MAGIC))
    return head[:1] == _TORCH_MAGIC[:1] and head != _TORCH_MAGIC and _begins_with_pickles(path, 1)


@contextlib.contextmanager
def local_copy(location: Location) -> Iterator[str]:
    """The path of the file itself, or of a download that is removed when the block ends.

    A mapping of the download stays valid after that: the system keeps the bytes until it is dropped.
    """
    if location.is_local:
        yield location.path
        return
    with tempfile.TemporaryDirectory(prefix="esmerge-") as folder:
        path = os.path.join(folder, "checkpoint")
        with location.open() as original, storage_errors(path, "write"), open(path, "wb") as copy:
            shutil.copyfileobj(original, copy, 8 * 1024**2)
        yield path


@contextlib.contextmanager
def quiet_torch() -> Iterator[None]:
    """Drop torch's warnings about old formats: the user cannot change a file that already exists."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _load(location: Location) -> Any:
    with local_copy(location) as path:
        with open(path, "rb") as stream:
            zipped = stream.read(len(ZIP_MAGIC)) == ZIP_MAGIC
        if zipped:
            _refuse_compressed(path, location)
        try:
            with quiet_torch():
                return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        except Exception as error:  # torch raises nearly every class of error for a damaged file
            if "TorchScript archive" in str(error):
                raise _refused(location, "is a TorchScript program") from error
            if _is_object(path, zipped, error):
                raise _refused(location, "holds a pickled object") from error
            reason = " ".join(str(error).split("\n")[0].split())[:150]
            raise InputError(
                f"{location}: is damaged or no file of torch.save ({type(error).__name__}: {reason}). "
                "Copy or download it again."
            ) from error


def _refuse_compressed(path: str, location: Location) -> None:
    """Refuse an archive that holds more than its own size: torch.save never compresses, a bomb does."""
    try:
        with zipfile.ZipFile(path) as archive:
            held = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        return  # torch says what is wrong with it
    if held > os.path.getsize(path):
        raise InputError(
            f"{location}: is a compressed archive that would unpack to {held} bytes, which no "
            "torch.save writes. Save it again."
        )


def _refused(location: Location, what: str) -> InputError:
    return InputError(
        f"{location}: {what}, which esmerge never loads (it could run code). If you trust its source, "
        f"convert it once: esmerge convert {location} OUT.safetensors"
    )


def _is_object(path: str, zipped: bool, error: Exception) -> bool:
    """Whether torch refused what the file holds, rather than met damage in it."""
    if isinstance(error, pickle.UnpicklingError) and is_plain_pickle(path):
        return True
    if not _REFUSED.search(str(error)):
        return False
    # Without a zip's directory, a name cut short at the end of the file looks like a forbidden one.
    return zipped or ".tar format" in str(error) or _begins_with_pickles(path, _LEGACY_PICKLES)


def _begins_with_pickles(path: str, count: int) -> bool:
    with open(path, "rb") as stream:
        try:
            for _ in range(count):
                for _ in pickletools.genops(stream):
                    pass
        except Exception:  # any error means the same: no whole pickle
            return False
    return True


def _describe_keys(loaded: Mapping[Any, Any]) -> str:
    return f"its keys are {', '.join(map(repr, list(loaded)[:5]))}" if loaded else "it is empty"
