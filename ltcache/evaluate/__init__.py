"""Judging runs: scores of a split, also under another class prior, and predictions of images."""

from ltcache.evaluate.evaluation import cache_of, evaluate, evaluate_seeds
from ltcache.evaluate.prediction import (
    Prediction,
    check_encoder,
    encoder_of_run,
    predict,
    probabilities_of,
)

__all__ = [
    "Prediction",
    "cache_of",
    "check_encoder",
    "encoder_of_run",
    "evaluate",
    "evaluate_seeds",
    "predict",
    "probabilities_of",
]
