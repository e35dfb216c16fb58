"""Mixing the scores of members, in the space of probabilities or of logits, and the weights."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ltcache.ensemble.record import TriedWeights
from ltcache.errors import UsageError
from ltcache.metrics import evaluate_logits

_STEPS = (20, 10, 5, 4, 2)  # how finely the grid may divide 1
_POINTS = 1001  # the most points of a grid

Progress = Callable[[int, int], None]


def mixed_logits(logits: Sequence[np.ndarray], weights: Sequence[float], space: str) -> np.ndarray:
    """Return float64 (N, C): log of the sum of w_m softmax(z_m), or the sum of w_m z_m.

    Args:
        logits: of each member, (N, C). weights: of each member, at least 0, of sum 1.
        space: ``probabilities`` or ``logits``.
    """
    return _mix([_in_space(z, space) for z in logits], weights, space)


def weight_grid(members: int) -> list[tuple[float, ...]]:
    """Return weights of sum 1 for M members: steps of 0.05 for two and three, coarser for more.

    Raises:
        UsageError: too many members.
    """
    for steps in _STEPS:
        if math.comb(steps + members - 1, members - 1) <= _POINTS:
            return [tuple(n / steps for n in part) for part in _parts(steps, members)]
    raise UsageError(f"no grid for {members} members: give their --weights")


def scaled_weights(weights: Sequence[float], members: int) -> tuple[float, ...]:
    """Return one weight for each member, of sum 1.

    Raises:
        UsageError: they are not one for each, of at least 0 and not all 0.
    """
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (members,):
        raise UsageError(f"{values.size} weights for {members} members")
    if not np.isfinite(values).all() or (values < 0).any() or values.sum() <= 0:
        raise UsageError("weights are numbers of at least 0 that are not all 0")
    return tuple((values / values.sum()).tolist())


def try_weights(
    logits: Sequence[np.ndarray], labels: np.ndarray, space: str, progress: Progress | None
) -> list[TriedWeights]:
    """Return the scores of every point of :func:`weight_grid`.

    Args:
        logits: of each member, (N, C). labels: (N,). progress: called with points done and in all.
    """
    grid = weight_grid(len(logits))
    parts = [_in_space(z, space) for z in logits]
    counts = np.zeros(parts[0].shape[1], np.int64)  # only groups would need them
    tried = []
    for done, weights in enumerate(grid, start=1):
        found = evaluate_logits(_mix(parts, weights, space), labels, counts, bootstrap=0)
        tried.append(TriedWeights(weights, found.mean_per_class, found.nll))
        if progress is not None:
            progress(done, len(grid))
    return tried


def _parts(total: int, members: int) -> Iterator[tuple[int, ...]]:
    """Yield all ways to write ``total`` as a sum of so many numbers of at least 0."""
    if members == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in _parts(total - first, members - 1):
            yield (first, *rest)


def _in_space(logits: np.ndarray, space: str) -> np.ndarray:
    z = logits.astype(np.float64)
    if space == "logits":
        return z
    z -= z.max(axis=1, keepdims=True)
    z -= np.log(np.exp(z).sum(axis=1, keepdims=True))
    return z


def _mix(parts: Sequence[np.ndarray], weights: Sequence[float], space: str) -> np.ndarray:
    used = [(part, w) for part, w in zip(parts, weights, strict=True) if w > 0]
    if space == "logits":
        return functools.reduce(np.add, (w * part for part, w in used))
    return functools.reduce(np.logaddexp, (math.log(w) + part for part, w in used))
