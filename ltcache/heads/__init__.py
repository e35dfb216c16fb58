"""Heads by name: ``HEADS[name](context, **hyper_parameters)``; a new head is one line here."""

from __future__ import annotations

from ltcache.heads.base import (
    Affine,
    Head,
    HeadContext,
    class_means,
    hyper_parameters,
    predict,
    uses_texts,
)
from ltcache.heads.cosine import CosineHead
from ltcache.heads.disalign import DisAlignHead
from ltcache.heads.gda import GDAHead
from ltcache.heads.l2norm_linear import L2NormLinearHead
from ltcache.heads.linear import LinearHead
from ltcache.heads.lws import LWSHead
from ltcache.heads.marc import MARCHead
from ltcache.heads.ncm import NCMHead
from ltcache.heads.transform import TRANSFORMS, FeatureTransform
from ltcache.heads.zero_shot import ZeroShotHead

HEADS: dict[str, type[Head]] = {
    "linear": LinearHead,
    "cosine": CosineHead,
    "l2norm_linear": L2NormLinearHead,
    "lws": LWSHead,
    "marc": MARCHead,
    "disalign": DisAlignHead,
    "ncm": NCMHead,
    "gda": GDAHead,
    "zero_shot": ZeroShotHead,
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
    "hyper_parameters",
    "predict",
    "uses_texts",
]
