"""Checkpoints as people have them, all made from one tiny open_clip CLIP (width 32, two layers)."""

import re
from collections.abc import Callable

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from services import S3Server
from torch import Tensor

from esm_core.checkpoints import Checkpoint, open_checkpoint
from esm_core.storage import Location

Tensors = dict[str, Tensor]

VISION = {"image_size": 32, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16}
TEXT = {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1}


@pytest.fixture(scope="session")
def clip() -> Tensors:
    """The state dict of a full CLIP, every value random and different."""
    model = open_clip.CLIP(embed_dim=16, vision_cfg=VISION, text_cfg=TEXT)
    generator = torch.Generator().manual_seed(0)
    return {n: torch.randn(t.shape, generator=generator) for n, t in model.state_dict().items()}


@pytest.fixture(scope="session")
def tower(clip: Tensors) -> Tensors:
    """Its vision tower, names with ``visual.``."""
    return {name: value for name, value in clip.items() if name.startswith("visual.")}


@pytest.fixture(scope="session")
def hf(tower: Tensors) -> Tensors:
    """The same tower as transformers' CLIPVisionModelWithProjection saves it, with ``vision_model.``."""
    found: Tensors = {"vision_model.embeddings.position_ids": torch.arange(5)[None]}
    plain = {
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    }
    for name, value in tower.items():
        if name in plain:
            found[plain[name]] = value
        elif name == "visual.proj":
            found["visual_projection.weight"] = value.T.contiguous()
        elif match := re.fullmatch(r"visual\.transformer\.resblocks\.(\d)\.attn\.in_proj_(\w+)", name):
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                key = f"vision_model.encoder.layers.{match[1]}.self_attn.{letter}_proj.{match[2]}"
                found[key] = part.clone()
        else:
            key = name.replace("visual.transformer.resblocks", "vision_model.encoder.layers")
            key = key.replace("visual.ln_pre", "vision_model.pre_layrnorm")
            key = key.replace("visual.ln_post", "vision_model.post_layernorm")
            key = key.replace(".ln_1.", ".layer_norm1.").replace(".ln_2.", ".layer_norm2.")
            key = key.replace(".attn.out_proj.", ".self_attn.out_proj.")
            found[key.replace(".c_fc.", ".fc1.").replace(".c_proj.", ".fc2.")] = value
    return found


@pytest.fixture
def folder(tmp_path) -> Location:
    return Location.parse(str(tmp_path))


@pytest.fixture
def saved(folder: Location) -> Callable[..., Checkpoint]:
    """Write tensors as ``fine-tune.safetensors`` (or another name) and open that."""

    def save(tensors: Tensors, name: str = "fine-tune.safetensors", **metadata: str) -> Checkpoint:
        location = folder / name
        save_file({k: v.contiguous() for k, v in tensors.items()}, location.path, metadata or None)
        return open_checkpoint(location)

    return save


@pytest.fixture
def remote(s3: S3Server) -> Location:
    """A folder that is not local."""
    return s3.bucket() / "folder"
