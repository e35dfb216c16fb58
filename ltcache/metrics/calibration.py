"""Whether a head is as often right as its probabilities say, before and after one temperature.

Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ltcache.records import one_line

ECE_BINS = 15
_BLOCK = 8192  # rows: no second (N, C) array is alive
_LARGEST = 100.0


@one_line
@dataclass(frozen=True, eq=False)
class PredictedClasses:
    """What logits (N, C) say of each row.

    Attributes:
        predicted: class with the largest logit, (N,). confidence: its probability, (N,).
        log_likelihood: log probability of the row's own class, nats, (N,).
    """

    predicted: np.ndarray
    confidence: np.ndarray
    log_likelihood: np.ndarray

    @classmethod
    def of(
        cls, logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0
    ) -> PredictedClasses:
        """Read them from logits, divided by a temperature, and labels (N,), in float64."""
        confidence, own = np.empty(len(labels)), np.empty(len(labels))
        for start in range(0, len(labels), _BLOCK):
            part = slice(start, start + _BLOCK)
            z = logits[part].astype(np.float64) / temperature
            z -= z.max(axis=1, keepdims=True)
            log_sum = np.log(np.exp(z).sum(axis=1))
            confidence[part] = np.exp(-log_sum)
            of_label = labels[part, None].astype(np.int64)
            own[part] = np.take_along_axis(z, of_label, axis=1)[:, 0] - log_sum
        return cls(logits.argmax(axis=1), confidence, own)

    @property
    def bins(self) -> np.ndarray:
        """Which of :data:`ECE_BINS` equal widths the confidence of each row lies in, (N,)."""
        found = np.ceil(self.confidence * ECE_BINS).astype(int) - 1
        return np.asarray(np.clip(found, 0, ECE_BINS - 1))


@one_line
@dataclass(frozen=True, eq=False)
class ReliabilityCurve:
    """The bins of confidence that have rows.

    Attributes:
        confidence, accuracy: mean of each, (B,). rows: in each, (B,). ece: over all rows.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    rows: np.ndarray
    ece: float

    @classmethod
    def of(cls, found: PredictedClasses, labels: np.ndarray) -> ReliabilityCurve:
        """Read it from predictions and labels (N,)."""
        right = (found.predicted == labels).astype(np.float64)
        sums = [
            np.bincount(found.bins, weights=values, minlength=ECE_BINS)
            for values in (found.confidence, right, np.ones(len(labels)))
        ]
        confidence, accuracy, rows = (total[sums[2] > 0] for total in sums)
        ece = float(np.abs(accuracy - confidence).sum() / len(labels))
        return cls(confidence / rows, accuracy / rows, rows.astype(np.int64), ece)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature from 0.01 to 100 with the lowest NLL of logits (N, C) and labels."""
    from scipy.optimize import minimize_scalar

    def nll(log_temperature: float) -> float:
        found = PredictedClasses.of(logits, labels, float(np.exp(log_temperature)))
        return float(-found.log_likelihood.mean())

    limit = float(np.log(_LARGEST))
    best = minimize_scalar(nll, bounds=(-limit, limit), method="bounded", options={"xatol": 1e-3})
    return float(np.exp(best.x))
