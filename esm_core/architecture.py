"""The open_clip architecture a merge works on: its configuration, its tower, its preprocessing."""

import difflib
import json
from collections.abc import Callable, Mapping
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from PIL.Image import Image
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from esm_core.errors import InputError
from esm_core.recipe import Activation
from esm_core.storage import Location

CONFIG_NAME = "open_clip_config.json"


class Architecture(BaseModel):
    """An open_clip model configuration.

    Attributes
    ----------
    name : str
        What the recipe called it.
    model_cfg : dict
        open_clip's ``model_cfg`` (embed_dim, vision_cfg, text_cfg, quick_gelu, ...).
    preprocess_cfg : dict
        open_clip's ``preprocess_cfg``, complete.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]

    @property
    def activation(self) -> Activation:
        return "quick_gelu" if self.model_cfg.get("quick_gelu", False) else "gelu"

    @property
    def identity(self) -> dict[str, Any]:
        """What determines the output of the vision tower beside its weights."""
        return {
            "embed_dim": self.model_cfg["embed_dim"],
            "vision_cfg": self.model_cfg["vision_cfg"],
            "activation": self.activation,
            "preprocess": self.preprocess_cfg,
        }


def load_architecture(architecture: str | None, checkpoint: Location) -> Architecture:
    """Find the configuration: a model name, a JSON file, or the folder the checkpoint is in.

    Raises
    ------
    InputError
        Unknown name, unreadable configuration, or a vision tower that is not a transformer.
    """
    if architecture is None:
        folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
        location = folder / CONFIG_NAME
        if not location.is_file():
            raise InputError(
                f"base.architecture is not set and there is no {CONFIG_NAME} at {folder}. "
                "Give an open_clip model name (such as ViT-B-32) or a path to such a file."
            )
        return _from_file(location)
    if architecture.endswith(".json"):
        return _from_file(Location.parse(architecture))
    config = open_clip.get_model_config(architecture)
    if config is None:
        close = difflib.get_close_matches(architecture, open_clip.list_models(), n=4)
        raise InputError(
            f"base.architecture: open_clip knows no model {architecture!r}. "
            f"Use a name from open_clip.list_models(){', such as ' + ', '.join(close) if close else ''}."
        )
    return _checked(architecture, config, {})


def _from_file(location: Location) -> Architecture:
    try:
        data = json.loads(location.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{location}: is not valid JSON ({error}).") from error
    if not isinstance(data, dict) or not isinstance(data.get("model_cfg"), dict):
        raise InputError(f"{location}: has no model_cfg; an open_clip_config.json is expected.")
    return _checked(location.url, data["model_cfg"], data.get("preprocess_cfg") or {})


def _checked(name: str, model_cfg: dict[str, Any], preprocess: dict[str, Any]) -> Architecture:
    vision = model_cfg.get("vision_cfg")
    if not isinstance(vision, dict) or "embed_dim" not in model_cfg or "text_cfg" not in model_cfg:
        raise InputError(f"{name}: model_cfg needs embed_dim, vision_cfg and text_cfg.")
    if not isinstance(model_cfg["text_cfg"], dict) or not isinstance(preprocess, dict):
        raise InputError(f"{name}: text_cfg and preprocess_cfg must be JSON objects.")
    if vision.get("timm_model_name") or not isinstance(vision.get("layers", 12), int):
        raise InputError(
            f"{name}: only open_clip's own vision transformers can be merged (not timm or ResNet)."
        )
    try:
        base = {"size": vision.get("image_size", 224)}
        complete = merge_preprocess_dict(PreprocessCfg(**base), preprocess)
        merged = json.loads(json.dumps(vars(PreprocessCfg(**complete))))
    except (TypeError, AssertionError) as error:
        raise InputError(f"{name}: preprocess_cfg is not usable ({error}).") from error
    return Architecture(name=name, model_cfg=model_cfg, preprocess_cfg=merged)


def empty_model(architecture: Architecture) -> nn.Module:
    """The full open_clip model without storage (meta device), in evaluation mode.

    Raises
    ------
    InputError
        open_clip cannot build it.
    """
    config = {k: v for k, v in architecture.model_cfg.items() if k not in ("custom_text", "init_logit_bias")}
    custom = (
        architecture.model_cfg.get("custom_text") or "hf_model_name" in architecture.model_cfg["text_cfg"]
    )
    build = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    try:
        with torch.device("meta"):
            model: nn.Module = build(**config)
    except Exception as error:
        raise InputError(f"{architecture.name}: open_clip cannot build this model ({error}).") from error
    return model.eval()


def _empty_tower(architecture: Architecture) -> nn.Module:
    tower = empty_model(architecture).visual
    assert isinstance(tower, nn.Module)
    return tower


def tower_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Name (with ``visual.``) and shape of every tensor of the vision tower."""
    tower = _empty_tower(architecture)
    return {f"visual.{name}": tuple(tensor.shape) for name, tensor in tower.state_dict().items()}


def build_tower(
    architecture: Architecture, tensors: Mapping[str, Tensor], device: str, dtype: torch.dtype
) -> nn.Module:
    """The vision tower holding ``tensors`` (names with ``visual.``), ready to run.

    ``tower(images)`` maps ``[B, 3, H, W]`` to features ``[B, embed_dim]``.
    """
    tower = empty_model(architecture).visual
    assert isinstance(tower, nn.Module)
    state = {
        name.removeprefix("visual."): tensor.to(device=device, dtype=dtype)
        for name, tensor in tensors.items()
    }
    tower.load_state_dict(state, strict=True, assign=True)
    return tower.requires_grad_(False)


def full_model(architecture: Architecture, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The full open_clip model holding ``tensors``, in evaluation mode, on the CPU."""
    return filled(empty_model(architecture), tensors)


def filled(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """What :func:`empty_model` made, holding ``tensors``."""
    model.load_state_dict(dict(tensors), strict=True, assign=True)
    # The one buffer that is not in a state dict: the causal mask of the text tower.
    for module in model.modules():
        mask = getattr(module, "attn_mask", None)
        if isinstance(mask, Tensor) and mask.is_meta:
            module.attn_mask = torch.full(mask.shape, float("-inf")).triu_(1)
    return model.requires_grad_(False)


def preprocess(architecture: Architecture) -> Callable[[Image], Tensor]:
    """open_clip's inference transform: a PIL image to a float32 tensor ``[3, H, W]``."""
    transform: Callable[[Image], Tensor] = image_transform_v2(
        PreprocessCfg(**architecture.preprocess_cfg), is_train=False
    )
    return transform
