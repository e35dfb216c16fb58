"""Matching of predictions to a class distribution, against plain Sinkhorn and closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ltcache.adjustments import ADJUSTMENTS, PredictedRows, adapted
from ltcache.adjustments.post_ot import sinkhorn_potentials
from ltcache.errors import FitError
from ltcache.heads import HeadContext
from tests.heads.started import CLASSES, disturbed, make_context, make_rows, started

TARGET = np.array([0.5, 0.2, 0.15, 0.1, 0.05])


def _scores(rows: int = 30, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, CLASSES, generator=generator, dtype=torch.float64)
    return logits.log_softmax(dim=1)


def _solved(scores: Tensor, eps: float, **options: Any) -> tuple[np.ndarray, int, float]:
    settings = {"iterations": 20_000, "tolerance": 1e-11, **options}
    v, steps, error = sinkhorn_potentials(scores, torch.from_numpy(TARGET).log(), eps, **settings)
    return v.numpy(), steps, error


def _plain_sinkhorn(scores: np.ndarray, eps: float) -> np.ndarray:
    """Return v of mean 0 by plain scaling of a kernel, in loops."""
    kernel = np.exp(scores / eps)
    of_rows, of_columns = np.ones(len(scores)), np.ones(CLASSES)
    for _ in range(5000):
        for i in range(len(scores)):
            of_rows[i] = 1 / len(scores) / (kernel[i] @ of_columns)
        for c in range(CLASSES):
            of_columns[c] = TARGET[c] / (kernel[:, c] @ of_rows)
    v = eps * np.log(of_columns)
    return np.asarray(v - v.mean())


@pytest.mark.parametrize("eps", [0.3, 1.0, 5.0])
def test_rows_and_columns_of_the_plan_have_their_sums(eps: float) -> None:
    scores = _scores()
    v, _, error = _solved(scores, eps)
    plan = np.exp((scores.numpy() + v) / eps)
    plan /= len(plan) * plan.sum(axis=1, keepdims=True)  # u makes the sums of rows
    np.testing.assert_allclose(plan.sum(axis=0), TARGET, atol=1e-9)
    assert error <= 1e-11 and v.mean() == pytest.approx(0.0, abs=1e-12)


def test_potentials_against_plain_scaling() -> None:
    scores = _scores(12)
    np.testing.assert_allclose(
        _solved(scores, 1.0)[0], _plain_sinkhorn(scores.numpy(), 1.0), atol=1e-8
    )


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _solved(_scores(), 1.0)[0]
    monkeypatch.setattr("ltcache.adjustments.post_ot._BLOCK", 7)
    np.testing.assert_allclose(_solved(_scores(), 1.0)[0], whole, atol=1e-12)


def test_an_enormous_eps_takes_off_the_mean_of_each_class() -> None:
    """To first order in 1 / eps, v = eps log r - mean_i log p_i, up to a constant."""
    eps, scores = 1e6, _scores()
    means = scores.numpy() - scores.numpy().mean(axis=1, keepdims=True)
    expected = eps * np.log(TARGET) - means.mean(axis=0)
    np.testing.assert_allclose(_solved(scores, eps)[0], expected - expected.mean(), atol=1e-4)


def test_a_single_row_is_moved_onto_the_target() -> None:
    scores = _scores(1)
    v, steps, _ = _solved(scores, 1.0)
    np.testing.assert_allclose((scores + torch.from_numpy(v)).softmax(1)[0].numpy(), TARGET)
    assert steps == 1


def test_a_small_eps_gives_each_class_its_share_of_the_predictions() -> None:
    scores = _scores(200)
    v = _solved(scores, 0.01, tolerance=1e-4)[0]
    shares = np.bincount((scores.numpy() + v).argmax(axis=1), minlength=CLASSES) / 200
    np.testing.assert_allclose(shares, TARGET, atol=0.02)


def _matched(crops: Tensor, context: HeadContext | None = None, **options: Any) -> Any:
    context = context or make_context()
    head = ADJUSTMENTS["post_ot"](disturbed(started("linear")), context, **options)
    return adapted(head, PredictedRows("test", "five", lambda view: crops))


def test_logits_of_several_crops_are_averaged_before_they_are_matched() -> None:
    noise = torch.randn(20, 3, 6, generator=torch.Generator().manual_seed(5))
    crops = make_rows()[0][:, None] + 0.3 * noise
    ready, (found,) = _matched(crops)
    logits = ready(crops.flatten(0, 1)).unflatten(0, (20, 3)).mean(dim=1)
    shares = logits.detach().double().softmax(dim=1).mean(dim=0)
    torch.testing.assert_close(shares, torch.full_like(shares, 0.2), atol=1e-6, rtol=0)
    assert found.view == "five" and len(found.learned["potentials"]) == CLASSES
    assert found.learned["end"] == "converged"


def test_the_target_may_be_the_prior_of_the_training_rows() -> None:
    crops = make_rows()[0][:, None]
    ready, _ = _matched(crops, target="train")
    shares = ready(crops[:, 0]).detach().double().softmax(dim=1).mean(dim=0)
    expected = make_context().class_counts.double() / 20
    torch.testing.assert_close(shares, expected, atol=1e-6, rtol=0)
    empty = HeadContext(6, CLASSES, torch.tensor([3, 0, 1, 1, 1]))
    with pytest.raises(FitError, match="no training rows"):
        _matched(crops, empty, target="train")
    smooth, _ = _matched(crops, empty, target="train", smooth_prior=True)
    assert torch.isfinite(smooth(crops[:, 0])).all()
    assert torch.isfinite(_matched(crops, empty)[0](crops[:, 0])).all()


def test_what_did_not_converge_says_so_and_no_iteration_moves_nothing() -> None:
    crops = make_rows()[0][:, None]
    _, (found,) = _matched(crops, iterations=1, tolerance=0.0)
    assert found.learned["end"] == "not converged" and "not converged" in found.words()
    ready, (none,) = _matched(crops, iterations=0)
    assert none.learned["end"] == "no iteration"
    assert torch.equal(ready(crops[:, 0]), ready.base(crops[:, 0]))


def test_settings_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(FitError, match="'odd' is none of uniform, train"):
        _matched(make_rows()[0][:, None], target="odd")
    for options in ({"eps": 0.0}, {"eps": float("nan")}, {"iterations": -1}):
        with pytest.raises(FitError, match=r"adjustment\.eps"):
            _matched(make_rows()[0][:, None], **options)
