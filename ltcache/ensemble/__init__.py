"""Late ensembles: logits of several runs and zero-shot classifiers, mixed per image."""

from ltcache.ensemble.mixture import (
    Ensemble,
    ZeroShot,
    ensemble,
    evaluate_ensemble,
    mixed_logits,
    weight_grid,
)

__all__ = [
    "Ensemble",
    "ZeroShot",
    "ensemble",
    "evaluate_ensemble",
    "mixed_logits",
    "weight_grid",
]
