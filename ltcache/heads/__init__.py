"""Heads by name: ``HEADS[name](context, **hyper_parameters)``; a new head is one line here."""

from __future__ import annotations

from ltcache.heads.base import Affine, Head, HeadContext, class_means, predict
from ltcache.heads.cosine import CosineHead
from ltcache.heads.linear import LinearHead
from ltcache.heads.transform import TRANSFORMS, FeatureTransform

HEADS: dict[str, type[Head]] = {
    "linear": LinearHead,
    "cosine": CosineHead,
}

__all__ = [
    "HEADS",
    "TRANSFORMS",
    "Affine",
    "CosineHead",
    "FeatureTransform",
    "Head",
    "HeadContext",
    "LinearHead",
    "class_means",
    "predict",
]
