"""Numbers about predictions: groups of classes, scores, intervals over independent units.

NumPy and scikit-learn only. Scores are fractions (0..1); :func:`percent` prints them.
"""

from __future__ import annotations

from ltcache.metrics.adaptation import RowAdaptation
from ltcache.metrics.bootstrap import (
    PairedDifference,
    UnitSums,
    paired_bootstrap,
    percentile_interval,
)
from ltcache.metrics.calibration import PredictedClasses, ReliabilityCurve, fit_temperature
from ltcache.metrics.choosing import EpochRecord, is_better, last_alike, validation_rank
from ltcache.metrics.confusion import ConfusedPair, confused_pairs
from ltcache.metrics.groups import GROUP_NAMES, UNGROUPED, GroupScheme
from ltcache.metrics.growth import FARTHEST, ForetoldError, PowerLaw, foretell
from ltcache.metrics.scores import Metrics, evaluate_logits, percent
from ltcache.metrics.summaries import class_accuracy, summaries
from ltcache.metrics.units import named_units

__all__ = [
    "FARTHEST",
    "GROUP_NAMES",
    "UNGROUPED",
    "ConfusedPair",
    "EpochRecord",
    "ForetoldError",
    "GroupScheme",
    "Metrics",
    "PairedDifference",
    "PowerLaw",
    "PredictedClasses",
    "ReliabilityCurve",
    "RowAdaptation",
    "UnitSums",
    "class_accuracy",
    "confused_pairs",
    "evaluate_logits",
    "fit_temperature",
    "foretell",
    "is_better",
    "last_alike",
    "named_units",
    "paired_bootstrap",
    "percent",
    "percentile_interval",
    "summaries",
    "validation_rank",
]
