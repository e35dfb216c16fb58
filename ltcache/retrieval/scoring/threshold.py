"""The least p_k of a pick: fixed, or calibrated on labelled training images to a precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ltcache.errors import FitError, UsageError
from ltcache.records import JsonRecord
from ltcache.retrieval.guards.verdicts import check_guards
from ltcache.retrieval.scoring.pool import CachedPool
from ltcache.retrieval.scoring.pool_scores import log_odds
from ltcache.retrieval.scoring.queries import ClassQueries
from ltcache.retrieval.settings import RetrievalSettings

if TYPE_CHECKING:
    from ltcache.cache import Cache

FIXED = 0.5
"""p_k of a class that is more probable than all others together."""

_BLOCK = 2048


@dataclass(frozen=True)
class ProbabilityThreshold(JsonRecord):
    """The least p_k, and where it comes from.

    Args:
        value: p_k. precision: the one asked for, None: the value was fixed.
        reached: precision on training images at the value, images of each class weighing as much
            as those of any other; support: training images at or above it.
    """

    value: float
    precision: float | None = None
    reached: float | None = None
    support: int | None = None


def fixed_threshold(value: float) -> ProbabilityThreshold:
    """Return a threshold that the user names.

    Raises:
        UsageError: not between 0 and 1.
    """
    if not 0 <= value <= 1:
        raise UsageError(f"the threshold on p_k is {value}: it lies between 0 and 1")
    return ProbabilityThreshold(float(value))


def least_probability(
    cache: Cache, queries: ClassQueries, labels: np.ndarray, settings: RetrievalSettings
) -> ProbabilityThreshold | None:
    """Return the least p_k under some settings, fixed or calibrated, or None without that guard."""
    if "threshold" in check_guards(settings.off):
        return None
    if settings.precision is None:
        return fixed_threshold(FIXED if settings.threshold is None else settings.threshold)
    return calibrated_threshold(cache, queries, labels, settings.precision, view=settings.view)


def calibrated_threshold(
    cache: Cache,
    queries: ClassQueries,
    labels: np.ndarray,
    precision: float,
    view: str = "center",
) -> ProbabilityThreshold:
    """Return the least p_k from which on training images have their predicted class often enough.

    Training images are predicted as a pool is; of those predicted to be one of ``labels``, the
    share at or above p_k that is right is the precision. Each class weighs as much as any other,
    however many images it has. A pool also holds what belongs to no class, so that its own
    precision is lower: the value is an upper bound.

    Args:
        queries: what the pool is scored with.
            Where class means are in them, each image is scored without its own part.
        labels: int64 (T,), the classes to retrieve for. precision: above 0, at most 1.

    Raises:
        UsageError: a precision that cannot be meant.
        FitError: no training image, or no threshold reaches it; says the best.
    """
    if not 0 < precision <= 1:
        raise UsageError(f"the precision is {precision}: it lies above 0 and at most at 1")
    probability, predicted, truth = _predictions(cache, queries, view)
    known = truth >= 0
    share = 1 / np.maximum(np.bincount(truth[known], minlength=queries.num_classes), 1)
    chosen = known & np.isin(predicted, labels)
    if not chosen.any():
        raise FitError(f"{cache.path}: no training image is predicted to be one of the classes")
    probability, right = probability[chosen], (predicted == truth)[chosen]
    weights = share[truth[chosen]]
    return _least(probability, right, weights, precision)


def _least(
    probability: np.ndarray, right: np.ndarray, weights: np.ndarray, precision: float
) -> ProbabilityThreshold:
    order = np.argsort(-probability, kind="stable")
    probability = probability[order]
    curve = np.cumsum(weights[order] * right[order]) / np.cumsum(weights[order])
    last = np.r_[probability[1:] < probability[:-1], True]  # equal values stand or fall together
    enough = np.flatnonzero(last & (curve >= precision))
    if not len(enough):
        best = int(np.flatnonzero(last)[np.argmax(curve[last])])
        raise FitError(
            f"no threshold on p_k reaches a precision of {precision} on training images; the best "
            f"is {curve[best]:.3f} at p_k >= {probability[best]:.4g} ({best + 1} images)"
        )
    place = int(enough[-1])
    return ProbabilityThreshold(
        float(probability[place]), precision, float(curve[place]), place + 1
    )


def _predictions(
    cache: Cache, queries: ClassQueries, view: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return p of the predicted class, the predicted class and the label of training images."""
    train = CachedPool(cache, view, "train")
    truth = cache.labels("train")
    best, predicted = np.empty(len(truth)), np.empty(len(truth), np.int64)
    for start in range(0, len(truth), _BLOCK):
        part = slice(start, start + _BLOCK)
        images = train.unit(train.rows[part])
        logits = np.stack([images @ rows.T for rows in queries.scaled]).max(axis=0)
        _leave_out(logits, images, truth[part], queries)
        odds = log_odds(torch.from_numpy(logits)).numpy()
        best[part], predicted[part] = odds.max(axis=1), odds.argmax(axis=1)
    return 1 / (1 + np.exp(-best)), predicted, truth


def _leave_out(
    logits: np.ndarray, images: np.ndarray, truth: np.ndarray, queries: ClassQueries
) -> None:
    """Replace each image's logit of its own class by one whose class mean lacks the image."""
    if queries.mixture is None:
        return
    known = np.flatnonzero(truth >= 0)
    rows = queries.mixture.without(images[known], truth[known])  # (M, n, D)
    own = np.einsum("nd,mnd->mn", images[known], rows).max(axis=0) / queries.tau
    logits[known, truth[known]] = own
