"""Numbers about predictions: groups of classes, scores, intervals over independent units.

NumPy and scikit-learn only. Scores are fractions (0..1); :func:`percent` prints them.
"""

from __future__ import annotations

from ltcache.metrics.bootstrap import PairedDifference, paired_bootstrap
from ltcache.metrics.groups import GROUP_NAMES, GroupScheme
from ltcache.metrics.scores import Metrics, evaluate_logits, percent

__all__ = [
    "GROUP_NAMES",
    "GroupScheme",
    "Metrics",
    "PairedDifference",
    "evaluate_logits",
    "paired_bootstrap",
    "percent",
]
