"""Checkpoints people have, opened lazily and seen under open_clip's names.

``convert_pickled`` is deliberately not exported here: it runs code from the file, so whoever wants
it imports :mod:`esm_core.checkpoints.convert` by name.
"""

from esm_core.checkpoints.activation import activation_evidence
from esm_core.checkpoints.base import Checkpoint, TensorInfo
from esm_core.checkpoints.names import VisionCheckpoint, text_checkpoint, vision_checkpoint
from esm_core.checkpoints.open import open_checkpoint, resolve_checkpoint
from esm_core.checkpoints.safetensors_file import SafetensorsFile, tensors_in, write_safetensors
from esm_core.checkpoints.torch_file import TorchFile

__all__ = [
    "Checkpoint",
    "SafetensorsFile",
    "TensorInfo",
    "TorchFile",
    "VisionCheckpoint",
    "activation_evidence",
    "open_checkpoint",
    "resolve_checkpoint",
    "tensors_in",
    "text_checkpoint",
    "vision_checkpoint",
    "write_safetensors",
]
