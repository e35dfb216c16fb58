"""Judging runs: scores of a split, also under another class prior, and predictions of images."""

from ltcache.evaluate.evaluation import cache_of, evaluate, evaluate_seeds
from ltcache.evaluate.prediction import (
    Prediction,
    check_encoder,
    load_for_run,
    predict,
    probabilities_of,
)

__all__ = [
    "Prediction",
    "cache_of",
    "check_encoder",
    "evaluate",
    "evaluate_seeds",
    "load_for_run",
    "predict",
    "probabilities_of",
]
