"""Classification heads: a linear head from a file, or a zero-shot head from class names."""

import json
from typing import Any

import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional

from esm_core.architecture import Architecture
from esm_core.checkpoints import Checkpoint, open_checkpoint
from esm_core.errors import InputError
from esm_core.recipe import TaskSpec, ZeroShotSpec
from esm_core.storage import Location


def head_classes(spec: TaskSpec, architecture: Architecture, has_text: bool) -> int | None:
    """How many classes the head of ``spec`` has, from its header alone; None where there is no head.

    Raises
    ------
    InputError
        The head file does not fit the architecture, or a zero-shot head has no text tower to build on.
    """
    if spec.zero_shot is not None:
        if not has_text:
            raise InputError("zero_shot: needs a base with a text tower; the base is a vision tower only.")
        return len(spec.zero_shot.classes)
    if spec.head is None:
        return None
    return linear_head_classes(
        open_checkpoint(Location.parse(spec.head)), architecture.model_cfg["embed_dim"]
    )


def linear_head_classes(head: Checkpoint, width: int | None) -> int:
    """How many classes a linear head has, from its header alone.

    Parameters
    ----------
    head : Checkpoint
    width : int, optional
        Of the embedding, where it is known.

    Raises
    ------
    InputError
        It has no ``weight`` of shape ``(classes, width)``, or a ``bias`` of another size.
    """
    weight, bias = head.tensors.get("weight"), head.tensors.get("bias")
    if weight is None or len(weight.shape) != 2 or weight.shape[1] != (width or weight.shape[1]):
        found = "no `weight`" if weight is None else f"`weight` {weight.shape}"
        expected = f"(classes, {width or 'embed_dim'})"
        raise InputError(f"head: {head.location}: has {found}, expected `weight` of shape {expected}.")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise InputError(f"head: {head.location}: `bias` is {bias.shape}, expected {weight.shape[:1]}.")
    return weight.shape[0]


def linear_head(url: str) -> dict[str, Tensor]:
    """The tensors of a linear head: ``weight`` ``[classes, embed_dim]`` and maybe ``bias`` ``[classes]``."""
    head = open_checkpoint(Location.parse(url))
    return {name: head.read(name).float() for name in ("weight", "bias") if name in head.tensors}


def zero_shot_head(spec: ZeroShotSpec, model: nn.Module, architecture: Architecture) -> dict[str, Tensor]:
    """A head from class names and templates by the text tower of ``model`` (unit-norm rows, no logit scale).

    Notes
    -----
    Uses open_clip's ``build_zero_shot_classifier``; the tokenizer is the one of the architecture.
    """
    tokenizer = _tokenizer(architecture)
    templates = [lambda name, template=template: template.format(name) for template in spec.templates]
    with torch.inference_mode():
        columns: Tensor = open_clip.build_zero_shot_classifier(
            model, tokenizer, list(spec.classes), templates, device="cpu"
        )
    return {"weight": columns.T.contiguous().clone()}


def _tokenizer(architecture: Architecture) -> Any:
    text = architecture.model_cfg["text_cfg"]
    if text.get("hf_tokenizer_name"):
        raise InputError(
            f"{architecture.name}: zero_shot with a Hugging Face tokenizer is not supported; "
            "make the head yourself and give it as head."
        )
    return open_clip.SimpleTokenizer(context_length=text.get("context_length", 77))


def predictions(features: Tensor, head: dict[str, Tensor]) -> Tensor:
    """Class indices ``[B]`` of image features ``[B, embed_dim]`` (L2-normalised here) under a head."""
    logits = functional.normalize(features.float(), dim=-1) @ head["weight"].to(features.device).T
    if "bias" in head:
        logits = logits + head["bias"].to(features.device)
    return logits.argmax(dim=-1)


def head_identity(spec: TaskSpec) -> dict[str, Any]:
    """What determines a zero-shot head, for digests; a linear head is known by its content."""
    return json.loads(spec.zero_shot.model_dump_json()) if spec.zero_shot else {}
