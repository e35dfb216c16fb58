"""Losses by name: ``LOSSES[name](class_counts, **hyper_parameters)``; a new one is one line."""

from __future__ import annotations

from ltcache.losses.base import Loss, OffsetCrossEntropy, class_prior
from ltcache.losses.cross_entropy import CrossEntropy, cross_entropy, cross_entropy_gradient_
from ltcache.losses.logit_adjustment import LogitAdjustment, logit_adjustment

LOSSES: dict[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "logit_adjustment": LogitAdjustment,
}

__all__ = [
    "LOSSES",
    "CrossEntropy",
    "LogitAdjustment",
    "Loss",
    "OffsetCrossEntropy",
    "class_prior",
    "cross_entropy",
    "cross_entropy_gradient_",
    "logit_adjustment",
]
