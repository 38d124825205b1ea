"""Kept decompositions: one more fine-tune is decomposed, the others are read.

``{store}/bases/{digest}/{weight}.safetensors`` holds what a fusion needs of one fine-tune's update of one
weight. The digest covers the fine-tune, the base, the rule and the rank, not the other tasks: a file that
is there is whole and right for any merge that asks for it.

Notes
-----
Bits must not depend on whether a decomposition was read or made. So what is made is what would be kept: in
float32, and at a rank that all counts of tasks from one power of two to the next share. Both are cut to the
rank a merge keeps by the same copy.
"""

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import google_crc32c
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from esm_core.checkpoints import TensorInfo, write_safetensors
from esm_core.errors import IntegrityError
from esm_core.esd import Decomposition, decompose_update
from esm_core.factor import InputFactor, ShiftFactor
from esm_core.methods import esm, tsv_m
from esm_core.methods.tsv_m import SingularPart
from esm_core.outline import Rule
from esm_core.plan import Plan
from esm_core.prefetch import to_device
from esm_core.settings import MergeSettings
from esm_core.stages import canonical_json, check_format, digest_of
from esm_core.storage import Location

Part = Decomposition | SingularPart

_FORMAT = 2
"""Of these files: their checksums are crc32c, as everywhere in the store; in the first format sha256."""

_KINDS: dict[Rule, type[Part]] = {"essential": Decomposition, "tsv_m": SingularPart}


def made_rank(size: int, count: int) -> int:
    """Directions made, and kept in the store, of each of ``count`` tasks where the recipe names no rank.

    ``size`` over the power of two at or below ``count``, at least 1: no fewer than ``size / count``, which
    a merge takes, and the same for 8 tasks and for 15.
    """
    return max(1, size // _shares(count))


def decompose(plan: Plan, weight: str, update: Tensor, inputs: InputFactor | ShiftFactor | None) -> Part:
    """A task's decomposition of one weight, at the rank and in the precision it is kept with.

    Parameters
    ----------
    update : Tensor
        ``[d_out, d_in]``, float64.
    inputs : InputFactor or ShiftFactor, optional
        Of this task and layer, where the weight's rule takes them.
    """
    count, rank = len(plan.tasks), plan.recipe.method.rank
    if inputs is None:
        return rounded(tsv_m.decompose(update, rank or made_rank(min(update.shape), count)))
    return rounded(decompose_update(update, inputs, rank or made_rank(update.shape[0], count)))


def rounded(part: Part) -> Part:
    """The part with its matrices in float32; eigenvalues, singular values and norms stay float64.

    Half the bytes to keep and to read. Rounding changes a merged update by about 1e-6 of it (Frobenius).
    """
    return part._replace(**{n: t.to(torch.float32) for n, t in part._asdict().items() if t.ndim == 2})


def cut(plan: Plan, part: Part) -> Part:
    """The part at the rank that the plan merges, in memory of its own."""
    count, settings = len(plan.tasks), plan.recipe.method
    if isinstance(part, Decomposition):
        rank = esm.kept_rank(part.basis.shape[0], count, settings)
        return Decomposition(
            _own(part.basis[:, :rank]), _own(part.coordinates[:rank]), _own(part.eigenvalues), _own(part.norm)
        )
    rank = settings.rank or tsv_m.kept_rank((part.left.shape[0], part.right.shape[1]), count)
    return SingularPart(_own(part.left[:, :rank]), _own(part.values[:rank]), _own(part.right[:rank]))


def fuse(parts: Sequence[Part], settings: MergeSettings) -> esm.EssentialMerge | Tensor:
    """Merge the tasks' parts of one weight, all of one kind, in the plan's order."""
    essential = [part for part in parts if isinstance(part, Decomposition)]
    if essential:
        return esm.fuse(essential, settings)
    return tsv_m.fuse([part for part in parts if isinstance(part, SingularPart)])


def basis_folder(plan: Plan, rule: Rule, name: str) -> Location:
    """Where a task's decompositions of the weights of one rule are kept."""
    rank = plan.recipe.method.rank
    identity = {
        **plan.expert_identity(name),
        "base": plan.base.identity,
        "rule": rule,
        "inputs": plan.shift_folder(name).name if rule == "essential" else None,
        "rank": rank,
        "shares": None if rank else _shares(len(plan.tasks)),
        "fuse": plan.fuse_identity,
    }
    return plan.store / "bases" / digest_of("bases", identity)


def basis_file(plan: Plan, weight: str, name: str) -> Location:
    """Where a task's decomposition of one weight is kept; complete where it exists."""
    return basis_folder(plan, plan.rules[weight], name) / f"{weight}.safetensors"


def basis_folders(plan: Plan) -> list[Location]:
    """Every folder of kept decompositions that a plan's merge reads or writes."""
    if not plan.recipe.fuse.keep_bases:
        return []
    rules = [rule for rule in _KINDS if rule in plan.rules.values()]
    return [basis_folder(plan, rule, task.name) for task in plan.tasks for rule in rules]


def write_basis(file: Location, part: Part) -> None:
    """Keep a decomposition, with a checksum of every tensor; the file appears when it is whole."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in part._asdict().items()}
    infos = {name: TensorInfo(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    checksums = {name: _crc32c(tensor) for name, tensor in tensors.items()}
    # An esmerge of before looks for sha256 first, and only then sees that the format is newer than it knows.
    facts = {"format": _FORMAT, "crc32c": checksums, "sha256": {}}
    write_safetensors(file, infos, tensors.__getitem__, canonical_json(facts).decode())


def read_basis(file: Location, rule: Rule, device: str = "cpu") -> Part:
    """What :func:`write_basis` kept for a weight of ``rule``, verified, in one request.

    Raises
    ------
    IntegrityError
        The file is not what was written.
    """
    kind, data = _KINDS[rule], file.read_bytes()
    try:
        (length,) = struct.unpack_from("<Q", data)
        facts = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["esmerge"])
        version = int(facts["format"])
        tensors = load_safetensors(data) if version <= _FORMAT else {}
        if version <= _FORMAT and not (set(tensors) == set(kind._fields) and _whole(facts, tensors)):
            raise ValueError("its checksums are not those it was written with")
    except (SafetensorError, struct.error, ValueError, KeyError, TypeError, OverflowError) as error:
        raise IntegrityError(
            f"{file}: is damaged ({error}). Delete it and run again: it is made anew."
        ) from error
    check_format(file, version, _FORMAT)
    return kind(**{name: to_device(tensor, device) for name, tensor in tensors.items()})


def _shares(count: int) -> int:
    return 1 << (count.bit_length() - 1)


def _own(tensor: Tensor) -> Tensor:
    # A view of a larger tensor, or of bytes that were read, may take other kernels and so other rounding.
    owned: Tensor = tensor.new_empty(tensor.shape)
    return owned.copy_(tensor)


def _whole(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bool:
    name, checksum = ("sha256", _sha256) if int(facts["format"]) < 2 else ("crc32c", _crc32c)
    return bool(facts[name] == {key: checksum(tensor) for key, tensor in tensors.items()})


def _crc32c(tensor: Tensor) -> int:
    return int(google_crc32c.extend(google_crc32c.value(_description(tensor)), _memory(tensor)))


def _sha256(tensor: Tensor) -> str:
    digest = hashlib.sha256(_description(tensor))
    digest.update(_memory(tensor).data)
    return digest.hexdigest()


def _description(tensor: Tensor) -> bytes:
    return canonical_json([str(tensor.dtype), *tensor.shape])


def _memory(tensor: Tensor) -> NDArray[np.uint8]:
    # As it is: a copy takes longer than its checksum.
    memory: NDArray[np.uint8] = tensor.reshape(-1).view(torch.uint8).numpy()
    return memory
