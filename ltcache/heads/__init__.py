"""Heads by name: ``HEADS[name](context, **hyper_parameters)``; a new head is one line here."""

from __future__ import annotations

from ltcache.heads.ballad_adapter import BALLADAdapterHead
from ltcache.heads.base import (
    AffineWeights,
    Head,
    HeadContext,
    TokenMap,
    class_means,
    keyword_arguments,
    predict_logits,
    predicted_labels,
    sums_by_class,
    uses_texts,
)
from ltcache.heads.branches import BranchesHead
from ltcache.heads.cosine import CosineHead
from ltcache.heads.disalign import DisAlignHead
from ltcache.heads.experts import ExpertsHead
from ltcache.heads.gda import GDAHead
from ltcache.heads.knn import KNNHead
from ltcache.heads.l2norm_linear import L2NormLinearHead
from ltcache.heads.language_guided import LanguageGuidedHead, anchor_sentences
from ltcache.heads.large_kernel import LargeKernel, gated, gated_tokens, large_kernel, start_at_one
from ltcache.heads.linear import LinearHead
from ltcache.heads.lws import LWSHead
from ltcache.heads.marc import MARCHead
from ltcache.heads.meta_embedding import MetaEmbeddingHead
from ltcache.heads.ncm import NCMHead
from ltcache.heads.neighbours import label_counts, spaced_rows
from ltcache.heads.nested_experts import NestedExpertsHead, class_reach
from ltcache.heads.reslt import ResLTHead
from ltcache.heads.scored import uniform
from ltcache.heads.sg_attention import SGAttentionHead
from ltcache.heads.tip_adapter import TipAdapterFHead, TipAdapterHead
from ltcache.heads.transform import TRANSFORMS, FeatureTransform
from ltcache.heads.visual_attention import VisualAttentionHead
from ltcache.heads.zero_shot import ZeroShotHead, zero_shot_logits

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
    "ballad_adapter": BALLADAdapterHead,
    "tip_adapter": TipAdapterHead,
    "tip_adapter_f": TipAdapterFHead,
    "knn": KNNHead,
    "experts": ExpertsHead,
    "nested_experts": NestedExpertsHead,
    "branches": BranchesHead,
    "reslt": ResLTHead,
    "meta_embedding": MetaEmbeddingHead,
    "sg_attention": SGAttentionHead,
    "visual_attention": VisualAttentionHead,
    "language_guided": LanguageGuidedHead,
}

__all__ = [
    "HEADS",
    "TRANSFORMS",
    "AffineWeights",
    "CosineHead",
    "FeatureTransform",
    "Head",
    "HeadContext",
    "LanguageGuidedHead",
    "LargeKernel",
    "LinearHead",
    "MetaEmbeddingHead",
    "NestedExpertsHead",
    "TokenMap",
    "anchor_sentences",
    "class_means",
    "class_reach",
    "gated",
    "gated_tokens",
    "keyword_arguments",
    "label_counts",
    "large_kernel",
    "predict_logits",
    "predicted_labels",
    "spaced_rows",
    "start_at_one",
    "sums_by_class",
    "uniform",
    "uses_texts",
    "zero_shot_logits",
]
