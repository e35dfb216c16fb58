"""Dual encoders of a few megabytes, written as folders that open_clip reads with ``local-dir:``.

Other tests use them too: they build and load in well under a second and cover the kinds of image
tower that differ for a cache (a native ViT, a CLIP ResNet, a timm trunk). Weights are random but
no part is left at zero, so that a wrong layer shows in the features.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

VISION: dict[str, dict[str, Any]] = {
    "vit": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "resnet": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 64},
    "timm": {"timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": "linear"},
}
KINDS = tuple(VISION)
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
PREPROCESS = {
    "mean": [0.48, 0.46, 0.41],
    "std": [0.27, 0.26, 0.28],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def tiny_config(
    kind: str = "vit", *, quick_gelu: bool = False, embed_dim: int = 32, image_size: int = 32
) -> dict[str, Any]:
    """Return the ``model_cfg`` of a tiny model: what open_clip calls an architecture."""
    vision = {"image_size": image_size, **VISION[kind]}
    config: dict[str, Any] = {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": dict(TEXT)}
    return {**config, "quick_gelu": True} if quick_gelu else config


def build(config: dict[str, Any], seed: int = 0) -> torch.nn.Module:
    """Return a model with every floating tensor away from its trivial start value."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**config)
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.05 * torch.rand_like(tensor))
    model.logit_scale.data.fill_(math.log(50.0))
    return model.eval()


def write_folder(
    path: str | Path,
    config: dict[str, Any],
    model: torch.nn.Module,
    preprocess: dict[str, Any] | None = None,
) -> Path:
    """Write an open_clip folder: ``open_clip_config.json`` and one safetensors file."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    record = {"model_cfg": config, "preprocess_cfg": {**PREPROCESS, **(preprocess or {})}}
    (folder / "open_clip_config.json").write_text(json.dumps(record, indent=1))
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    return folder


def write_tiny_clip(
    path: str | Path,
    *,
    seed: int = 0,
    kind: str = "vit",
    quick_gelu: bool = False,
    embed_dim: int = 32,
    image_size: int = 32,
) -> Path:
    """Write a tiny dual encoder to the folder ``path`` and return it.

    Load it with ``load_encoder(f"local-dir:{path}")`` or by plain open_clip.

    Args:
        seed: the weights; equal arguments give equal bytes.
        kind: ``vit`` (native ViT), ``resnet`` (CLIP ResNet) or ``timm`` (a timm trunk, linear).
        embed_dim: dimensions of the joint space.
        image_size: edge of the input in pixels, a multiple of 32.
    """
    config = tiny_config(kind, quick_gelu=quick_gelu, embed_dim=embed_dim, image_size=image_size)
    return write_folder(path, config, build(config, seed))
