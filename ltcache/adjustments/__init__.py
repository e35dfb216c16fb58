"""What acts on a finished head: ``ADJUSTMENTS`` on its logits, ``WEIGHT_TRANSFORMS`` on weights.

``ADJUSTMENTS[name](base, context, **hyper_parameters)`` is a head around the head;
``WEIGHT_TRANSFORMS[name](head, context, **hyper_parameters)`` a changed copy of the same class.
"""

from __future__ import annotations

from collections.abc import Callable

from ltcache.adjustments.base import (
    Adjustment,
    PredictedRows,
    adapted,
    is_transductive,
    require_alone,
)
from ltcache.adjustments.gla import GeneralizedLogitAdjustment
from ltcache.adjustments.post_ot import PostOptimalTransport
from ltcache.adjustments.posthoc import PosthocLogitAdjustment
from ltcache.adjustments.sade_aggregation import SadeAggregation, how_to_add
from ltcache.adjustments.tau_norm import tau_norm
from ltcache.adjustments.weight_ensemble import weight_ensemble
from ltcache.adjustments.zero_shot_ensemble import SPACES, ZeroShotEnsemble
from ltcache.heads import Head

ADJUSTMENTS: dict[str, type[Adjustment]] = {
    "posthoc": PosthocLogitAdjustment,
    "zero_shot_ensemble": ZeroShotEnsemble,
    "gla": GeneralizedLogitAdjustment,
    "sade_aggregation": SadeAggregation,
    "post_ot": PostOptimalTransport,
}
WEIGHT_TRANSFORMS: dict[str, Callable[..., Head]] = {
    "tau_norm": tau_norm,
    "weight_ensemble": weight_ensemble,
}

__all__ = [
    "ADJUSTMENTS",
    "SPACES",
    "WEIGHT_TRANSFORMS",
    "Adjustment",
    "PredictedRows",
    "adapted",
    "how_to_add",
    "is_transductive",
    "require_alone",
]
