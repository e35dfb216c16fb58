"""Losses by name: ``LOSSES[name](class_counts, **hyper_parameters)``; a new one is one line."""

from __future__ import annotations

from ltcache.losses.balanced_softmax import BalancedSoftmax
from ltcache.losses.base import Loss, OffsetCrossEntropy, class_prior
from ltcache.losses.class_balanced import ClassBalanced
from ltcache.losses.compensated_logit_adjustment import CompensatedLogitAdjustment
from ltcache.losses.cross_entropy import CrossEntropy, cross_entropy, cross_entropy_gradient_
from ltcache.losses.focal import FocalLoss
from ltcache.losses.gcl import GCL
from ltcache.losses.generalised_reweighting import GeneralisedReweighting
from ltcache.losses.label_aware_smoothing import LabelAwareSmoothing
from ltcache.losses.lade import LADE
from ltcache.losses.ldam import LDAM
from ltcache.losses.logit_adjustment import LogitAdjustment, logit_adjustment
from ltcache.losses.seesaw import SeesawLoss
from ltcache.losses.seesaw_static import SeesawStatic
from ltcache.losses.softmax import offset_cross_entropy_, softmax_residual_

LOSSES: dict[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "focal": FocalLoss,
    "class_balanced": ClassBalanced,
    "generalised_reweighting": GeneralisedReweighting,
    "balanced_softmax": BalancedSoftmax,
    "logit_adjustment": LogitAdjustment,
    "compensated_logit_adjustment": CompensatedLogitAdjustment,
    "ldam": LDAM,
    "lade": LADE,
    "gcl": GCL,
    "seesaw": SeesawLoss,
    "seesaw_static": SeesawStatic,
    "label_aware_smoothing": LabelAwareSmoothing,
}

__all__ = [
    "GCL",
    "LADE",
    "LDAM",
    "LOSSES",
    "BalancedSoftmax",
    "ClassBalanced",
    "CompensatedLogitAdjustment",
    "CrossEntropy",
    "FocalLoss",
    "GeneralisedReweighting",
    "LabelAwareSmoothing",
    "LogitAdjustment",
    "Loss",
    "OffsetCrossEntropy",
    "SeesawLoss",
    "SeesawStatic",
    "class_prior",
    "cross_entropy",
    "cross_entropy_gradient_",
    "logit_adjustment",
    "offset_cross_entropy_",
    "softmax_residual_",
]
