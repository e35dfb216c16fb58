"""Test sets whose class prior is not the one that a head was fitted for.

A head whose logits assume the prior p is retargeted to q by ``z + log q - log p``. The prior that
logits assume is n**a, with the exponent that a run records (1 = the training prior, 0 = balanced).

An unknown q is estimated from unlabelled logits by EM (Saerens, Latinne and Decaestecker, Adjusting
the outputs of a classifier to new a priori probabilities, Neural Computation 2002). That looks at
the whole test set, so it is transductive, and it takes the probabilities for calibrated.

Long-tailed test sets are those of LADE (Hong et al., CVPR 2021) and SADE (Zhang et al., NeurIPS
2022): an exponential profile over the classes by training frequency, ``forward`` with the training
order and ``backward`` against it, cut out of a balanced test split.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ltcache.errors import FitError, ManifestError, UsageError
from ltcache.records import one_line

FLOOR = 1e-12
"""Smallest prior of a class: keeps logits finite where the target has none of it."""

RATIOS = (50, 25, 10, 5, 2)
"""Largest over smallest class of SADE's forward and backward test sets."""

NAMED = ("uniform", "train", "estimate")
_SHIFT = re.compile(r"(forward|backward)-(\d+(?:\.\d+)?)")
_BLOCK = 8192


@dataclass(frozen=True)
class PriorProfile:
    """A long-tailed profile of classes: ``forward-50``.

    Args:
        direction: ``forward`` (most frequent in training first) or ``backward``.
        ratio: largest over smallest class, at least 1.
    """

    direction: str
    ratio: float

    @classmethod
    def parse(cls, text: str) -> PriorProfile:
        """Read ``forward-RATIO`` or ``backward-RATIO``.

        Raises:
            UsageError: neither.
        """
        match = _SHIFT.fullmatch(text)
        if not match or float(match[2]) < 1:
            known = ", ".join(f"forward-{ratio}" for ratio in RATIOS)
            raise UsageError(f"{text!r} is no shift: {known}, backward-{RATIOS[0]}...")
        return cls(match[1], float(match[2]))

    def profile(self, class_counts: np.ndarray) -> np.ndarray:
        """Return the share of the largest class that each class gets, float64 (C,), in 1/ratio..1.

        Args:
            class_counts: training rows (C,); equal ones are ranked by label.
        """
        classes = len(class_counts)
        rank = np.empty(classes)
        rank[np.argsort(-np.asarray(class_counts), kind="stable")] = np.arange(classes)
        if self.direction == "backward":
            rank = classes - 1 - rank
        return np.asarray(self.ratio ** -(rank / max(1, classes - 1)))


def draw_rows(
    labels: np.ndarray, class_counts: np.ndarray, shift: PriorProfile | str, seed: int = 0
) -> np.ndarray:
    """Return the positions of a long-tailed subset of a balanced test split, ascending int64.

    The largest class gets as many rows as the rarest class of the split has, every other one the
    whole part of its share and at least one. Of one seed, sets of larger ratios lie within those
    of smaller ratios and the same direction.

    Args:
        labels: of the test rows, (N,); -1 = unlabelled, never drawn.
        class_counts: training rows (C,).

    Raises:
        ManifestError: a class has no test rows.
    """
    shift = PriorProfile.parse(shift) if isinstance(shift, str) else shift
    labels = np.asarray(labels)
    there = np.bincount(labels[labels >= 0], minlength=len(class_counts))
    if not there.all():
        raise ManifestError(
            f"class {int(there.argmin())} has no test rows: no test set of another prior can be "
            "drawn from this split"
        )
    wanted = there.min() * shift.profile(class_counts)
    take = np.maximum(1, np.floor(wanted + 1e-9)).astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[labels[order] >= 0]
    order = order[np.argsort(labels[order], kind="stable")]  # by class, shuffled within
    start = np.cumsum(there) - there
    place = np.arange(len(order)) - start[labels[order]]
    return np.asarray(np.sort(order[place < take[labels[order]]]), dtype=np.int64)


def profile_prior(class_counts: np.ndarray, exponent: float = 1.0) -> np.ndarray:
    """Return n**a as probabilities, float64 (C,); with an empty class (n + 1)**a."""
    counts = np.asarray(class_counts, dtype=np.float64)
    if exponent != 0 and not counts.all():
        counts = counts + 1
    powers = counts**exponent if exponent != 0 else np.ones_like(counts)
    return np.asarray(powers / powers.sum())


def read_prior(path: str | Path, num_classes: int) -> np.ndarray:
    """Read a csv with the columns ``label`` and ``prior``, float64 (C,), scaled to sum 1.

    Raises:
        UsageError: not readable, a label twice, missing or unknown, or a prior that is none.
    """
    prior = np.full(num_classes, np.nan)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            for line, row in enumerate(csv.DictReader(file), 2):
                label, value = int(row["label"]), float(row["prior"])
                if not 0 <= label < num_classes or not np.isnan(prior[label]):
                    raise ValueError(f"line {line}: label {label} is unknown or there twice")
                if not 0 <= value < np.inf:
                    raise ValueError(f"line {line}: {value} is no prior")
                prior[label] = value
    except KeyError as error:
        raise UsageError(f"{path}: no column {error} (label,prior)") from None
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read as label,prior: {error}") from None
    if np.isnan(prior).any():
        raise UsageError(f"{path}: no prior for class {int(np.isnan(prior).argmax())}")
    if prior.sum() <= 0:
        raise UsageError(f"{path}: all priors are zero")
    return np.asarray(prior / prior.sum())


def retarget(logits: np.ndarray, assumed: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return logits (N, C) for the class prior ``target`` (C,) in place of ``assumed`` (C,).

    Priors below :data:`FLOOR` count as that much.
    """
    move = np.log(np.maximum(target, FLOOR)) - np.log(np.maximum(assumed, FLOOR))
    return logits + move.astype(logits.dtype)


@one_line
@dataclass(frozen=True, eq=False)
class PriorEstimate:
    """What EM found: ``prior`` float64 (C,), the ``steps`` it took and whether it ``converged``."""

    prior: np.ndarray
    steps: int
    converged: bool


def estimate_prior(
    logits: np.ndarray,
    assumed: np.ndarray,
    *,
    pseudo_rows: float = 1.0,
    tolerance: float = 1e-7,
    max_steps: int = 2000,
) -> PriorEstimate:
    """Estimate the class prior of unlabelled rows by EM.

    A step replaces q by the mean of the posteriors under q. With likelihoods r = p(c | x) / p(c)
    that is ``q * mean_i(r_i / (r_i . q))``: two products with a matrix that is made once.

    The likeliest prior of few rows leaves classes out altogether, and every row of theirs is then
    wrong with certainty; so a class starts with ``pseudo_rows`` rows of its own (the mode under a
    Dirichlet prior). 0 is the algorithm as published.

    Args:
        logits: (N, C), calibrated under the prior ``assumed`` (C,).
        pseudo_rows: added to each class, at least 0.
        tolerance: stops when no class moves by more.

    Raises:
        FitError: no rows.
    """
    if not len(logits):
        raise FitError("there are no rows to estimate a class prior from")
    ratio = _likelihoods(logits, assumed)
    prior = np.maximum(assumed, FLOOR) / np.maximum(assumed, FLOOR).sum()
    for step in range(1, max_steps + 1):
        rows = prior * (ratio.T @ (1 / (ratio @ prior))) + pseudo_rows
        moved = rows / rows.sum()
        change = np.abs(moved - prior).max()
        prior = np.maximum(moved, FLOOR) / np.maximum(moved, FLOOR).sum()
        if change < tolerance:
            return PriorEstimate(prior, step, True)
    return PriorEstimate(prior, max_steps, False)


def _likelihoods(logits: np.ndarray, assumed: np.ndarray) -> np.ndarray:
    """Return p(x | c) up to a factor of each row, float64 (N, C), the largest of a row 1."""
    ratio = np.empty(logits.shape, np.float64)
    shift = np.log(np.maximum(assumed, FLOOR))
    for start in range(0, len(logits), _BLOCK):
        part = logits[start : start + _BLOCK] - shift
        ratio[start : start + _BLOCK] = np.exp(part - part.max(axis=1, keepdims=True))
    return ratio


def class_weights(target: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return what a row of each class counts, float64 (C,), so that classes weigh as ``target``.

    Scores of labelled rows then estimate those under the prior ``target``, whatever prior the rows
    were collected with; a class without rows counts 1 and changes nothing.
    """
    rows = np.bincount(labels, minlength=len(target))
    share = rows / rows.sum()
    return np.asarray(np.where(rows > 0, np.maximum(target, FLOOR) / np.where(rows, share, 1), 1.0))
