"""The demo's vision tower: a small open_clip ViT, and the transform open_clip gives its images."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from demo.splits import SIZE, Images

MODEL_CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 64,
        "vision_cfg": {"image_size": SIZE, "patch_size": 8, "width": 128, "layers": 4, "head_width": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {
        "size": SIZE,
        "mode": "RGB",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    },
}
"""What ``open_clip_config.json`` says."""

FEATURES = int(MODEL_CONFIG["model_cfg"]["embed_dim"])


def build_tower() -> nn.Module:
    """The vision tower of that configuration, with weights drawn from torch's generator."""
    import open_clip

    tower: nn.Module = open_clip.CLIP(**MODEL_CONFIG["model_cfg"]).visual
    return tower


def preprocess(images: Images) -> Tensor:
    """``images`` as the tower gets them at inference: through open_clip's own transform."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    transform = image_transform_v2(PreprocessCfg(**MODEL_CONFIG["preprocess_cfg"]), is_train=False)
    return torch.stack([transform(Image.fromarray(image)) for image in images])


def features(tower: nn.Module, inputs: Tensor) -> Tensor:
    """Unit-norm image features."""
    return nn.functional.normalize(tower(inputs), dim=-1)


@torch.no_grad()
def accuracy(tower: nn.Module, head: Tensor, inputs: Tensor, labels: np.ndarray[Any, Any]) -> float:
    """Per cent of images whose nearest class row is the right one."""
    tower.eval()
    guesses = torch.cat([(features(tower, batch) @ head.T).argmax(-1) for batch in inputs.split(256)])
    tower.train()
    return 100 * float((guesses.numpy() == labels).mean())
