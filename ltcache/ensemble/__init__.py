"""Late ensembles: logits of several runs and zero-shot classifiers, mixed per image."""

from ltcache.ensemble.making import ensemble, evaluate_ensemble
from ltcache.ensemble.members import ZeroShot
from ltcache.ensemble.mixing import mixed_logits, weight_grid
from ltcache.ensemble.mixture import Ensemble
from ltcache.ensemble.record import EnsembleRecord, MemberRecord, RowsRecord

__all__ = [
    "Ensemble",
    "EnsembleRecord",
    "MemberRecord",
    "RowsRecord",
    "ZeroShot",
    "ensemble",
    "evaluate_ensemble",
    "mixed_logits",
    "weight_grid",
]
