"""Small image towers of every kind that adapters know, and adapters away from their start."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from open_clip import create_model
from torch.nn import functional as F

from ltcache.embedded import encoder_path, vit_encoder_path
from ltcache.encoder.adapters import AdapterContext, AdapterSpec, insert_adapters
from tests.encoder.tiny_models import build, tiny_config

CLASSES, DIM = 12, 32
OPTIONS: dict[str, dict[str, Any]] = {
    "adaptformer": {"bottleneck": 8},
    "lora": {"rank": 2, "mlp": True},
    "sg_adapter": {"bottleneck": 8},
    "visual_attention": {"kernel": 5, "dilation": 1},
}
TIMM = {"timm_efficientnet": "test_efficientnet", "timm_vit": "test_vit"}
TOWERS = ("vit", "resnet", "timm", *TIMM, "embedded_vit", "embedded_conv")


@cache
def _base(kind: str) -> Any:
    if kind.startswith("embedded"):
        folder = encoder_path() if kind == "embedded_conv" else vit_encoder_path()
        return create_model(f"local-dir:{folder}").eval().requires_grad_(False)
    config = tiny_config("timm" if kind in TIMM else kind, image_size=64)
    if kind in TIMM:
        config["vision_cfg"]["timm_model_name"] = TIMM[kind]
    if kind == "timm_vit":
        config["vision_cfg"].update(image_size=160, timm_pool="")
    return build(config).requires_grad_(False)


def base_model(kind: str) -> Any:
    """Return a frozen model in evaluation mode, of the caller's own."""
    return copy.deepcopy(_base(kind))


def context() -> AdapterContext:
    """Return what adapters are built from."""
    descriptions = torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(5))
    return AdapterContext(CLASSES, descriptions)


def adapted(kind: str, name: str, **options: Any) -> Any:
    """Return a model with an adapter, as it starts."""
    model = base_model(kind)
    spec = AdapterSpec(name, {**OPTIONS[name], **options})
    insert_adapters(model, [spec], seed=3, context=context())
    return model


def disturb(model: Any, size: float = 0.05) -> Any:
    """Move every trainable parameter away from its start."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return model


def images_for(model: Any, count: int = 2, seed: int = 0) -> torch.Tensor:
    """Return normalised images (N, 3, H, W)."""
    size = model.visual.image_size
    edges = (size, size) if isinstance(size, int) else tuple(size)
    return torch.randn(count, 3, *edges, generator=torch.Generator().manual_seed(seed))


def loss_of(model: Any, images: torch.Tensor) -> torch.Tensor:
    """Return a scalar that depends on the direction of every embedding."""
    embedding = F.normalize(model.encode_image(images), dim=1)
    target = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(7))
    return (embedding * target).sum()
