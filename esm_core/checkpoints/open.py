"""Finding out what a checkpoint is by its content, and opening it."""

import struct

from esm_core.checkpoints.base import Checkpoint
from esm_core.checkpoints.safetensors_file import SafetensorsFile
from esm_core.checkpoints.safetensors_header import LENGTH_BYTES, MAX_HEADER
from esm_core.checkpoints.torch_file import ZIP_MAGIC, TorchFile
from esm_core.errors import InputError
from esm_core.storage import Location

OPEN_CLIP_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
HF_NAMES = ("model.safetensors", "pytorch_model.bin")
_PEEK = 512
_TAR_MAGIC = slice(257, 262)
_NO_CHECKPOINT = {
    b"version https://git-lfs": "It is a Git LFS pointer: run git lfs pull.",
    b"<": "It looks like a web page, saved instead of the file: download it again.",
    b"\x1f\x8b": "It is compressed: unpack it with gunzip.",
}


def resolve_checkpoint(location: Location) -> Location:
    """The checkpoint file that ``location`` stands for: itself, or the one in an open_clip or HF folder.

    Raises
    ------
    InputError
        There is no such file or folder, the folder holds no checkpoint, or one in several files.
    """
    if location.name.endswith(".index.json"):
        raise _sharded(location)
    if location.is_file():
        return location
    if not location.is_dir():
        raise InputError(f"{location}: no such file or folder; give a checkpoint.")
    found = location.children()
    for name in (*OPEN_CLIP_NAMES, *HF_NAMES):
        if name in found:
            return location / name
    index = next((name for name in found if name.endswith(".index.json")), None)
    if index is not None:
        raise _sharded(location / index)
    listed = ", ".join(found[:10]) + (", ..." if len(found) > 10 else "") if found else "nothing"
    raise InputError(
        f"{location}: holds none of {', '.join((*OPEN_CLIP_NAMES, *HF_NAMES))}; it holds {listed}. "
        "Give the checkpoint file itself."
    )


def open_checkpoint(location: Location) -> Checkpoint:
    """Open a checkpoint file, or the one in a folder, by what its first bytes are.

    Parameters
    ----------
    location : Location
        A safetensors file, a file of ``torch.save``, or a folder; see :func:`resolve_checkpoint`.

    Raises
    ------
    InputError
        Missing, damaged, a pickled object, or no checkpoint at all.
    """
    location = resolve_checkpoint(location)
    head = _head(location)
    if _is_safetensors(head) or location.name.endswith(".safetensors"):
        if head.startswith(tuple(_NO_CHECKPOINT)) and not _is_safetensors(head):
            raise _unknown(location, head)
        return SafetensorsFile(location)
    if head.startswith(ZIP_MAGIC) or _is_pickled(head) or head[_TAR_MAGIC] == b"ustar":
        return TorchFile(location)
    raise _unknown(location, head)


def looks_like_safetensors(location: Location) -> bool:
    """Whether the file begins as a safetensors file does; only its first bytes are read."""
    return _is_safetensors(_head(location))


def _head(location: Location) -> bytes:
    size = location.size()
    return location.read_bytes(0, min(size, _PEEK)) if size else b""


def _is_safetensors(head: bytes) -> bool:
    # The length is not compared with the file's size, so that a truncated file is told to be that.
    if head[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":
        return False
    (length,) = struct.unpack("<Q", head[:LENGTH_BYTES])
    return bool(length <= MAX_HEADER)


def _is_pickled(head: bytes) -> bool:
    return len(head) >= 2 and head[0] == 0x80 and 2 <= head[1] <= 5


def _unknown(location: Location, head: bytes) -> InputError:
    if not head:
        return InputError(f"{location}: is empty. Copy or download it again.")
    hint = next((hint for magic, hint in _NO_CHECKPOINT.items() if head.startswith(magic)), None)
    return InputError(
        f"{location}: is not a checkpoint (it begins with {head[:16]!r}). "
        + (hint or "Give a safetensors file or a state dict saved by torch.save.")
    )


def _sharded(index: Location) -> InputError:
    return InputError(
        f"{index}: a checkpoint split into several files is not supported. Save it as one file, with "
        'save_pretrained(folder, max_shard_size="100GB").'
    )
