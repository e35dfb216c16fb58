"""Judging runs: scores of a split, also under another class prior, and predictions of images."""

from ltcache.evaluate.evaluation import cache_of, evaluate, evaluate_seeds
from ltcache.evaluate.prediction import (
    Prediction,
    check_encoder,
    encoder_of_run,
    predict,
    probabilities_of,
)
from ltcache.evaluate.row_predictions import (
    ClassScore,
    class_scores,
    split_predictions,
    write_predictions,
)

__all__ = [
    "ClassScore",
    "Prediction",
    "cache_of",
    "check_encoder",
    "class_scores",
    "encoder_of_run",
    "evaluate",
    "evaluate_seeds",
    "predict",
    "probabilities_of",
    "split_predictions",
    "write_predictions",
]
