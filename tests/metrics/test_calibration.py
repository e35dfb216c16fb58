"""Reliability and temperature: against the definition, and where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from ltcache.metrics import PredictedClasses, ReliabilityCurve, evaluate_logits, fit_temperature


def _calibrated(rows: int, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Return logits whose labels are drawn from their own probabilities."""
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(rows, classes))
    noise = rng.gumbel(size=logits.shape)
    return logits, (logits + noise).argmax(axis=1)


def test_the_temperature_of_scaled_logits_is_their_scale() -> None:
    logits, labels = _calibrated(20_000)
    for scale in (0.2, 1.0, 8.0):
        assert fit_temperature(scale * logits, labels) == pytest.approx(scale, rel=0.05)


def test_a_temperature_divides_the_logits_and_keeps_the_predictions() -> None:
    logits, labels = _calibrated(300)
    hot, plain = (PredictedClasses.of(logits, labels, t) for t in (4.0, 1.0))
    assert (hot.predicted == plain.predicted).all()
    probabilities = np.exp(logits / 4) / np.exp(logits / 4).sum(axis=1, keepdims=True)
    assert hot.confidence == pytest.approx(probabilities.max(axis=1))
    own = probabilities[np.arange(300), labels]
    assert hot.log_likelihood == pytest.approx(np.log(own))


def test_the_curve_is_of_the_bins_of_the_calibration_error() -> None:
    logits, labels = _calibrated(2_000)
    curve = ReliabilityCurve.of(PredictedClasses.of(3 * logits, labels), labels)
    metrics = evaluate_logits(3 * logits, labels, np.full(5, 10), bootstrap=0)
    assert curve.ece == pytest.approx(metrics.ece) and curve.ece > 0.05
    assert curve.rows.sum() == 2_000
    gaps = np.abs(curve.accuracy - curve.confidence) * curve.rows
    assert gaps.sum() / 2_000 == pytest.approx(metrics.ece)
    assert ((curve.confidence >= 0) & (curve.confidence <= 1)).all()
