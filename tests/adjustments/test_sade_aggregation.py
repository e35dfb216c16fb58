"""Weights of experts that are learned from unlabelled rows, against plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ltcache.adjustments import ADJUSTMENTS, PredictedRows, adapted, sade_aggregation
from ltcache.adjustments.sade_aggregation import LEAST_WEIGHT, agreement
from ltcache.errors import FitError
from ltcache.evaluate.prior_shift import draw_rows
from ltcache.heads import HEADS, HeadContext
from tests.heads.started import disturbed, make_context, make_rows, started


def _softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return np.asarray(e / e.sum())


def _agreement(a: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean cosine of (E, N, C) and (E, N, C) in plain loops."""
    weights, total = _softmax(a), 0.0
    for i in range(first.shape[1]):
        p, q = (_softmax(sum(w * z[e, i] for e, w in enumerate(weights))) for z in (first, second))
        total += float(p @ q / (np.sqrt(p @ p) * np.sqrt(q @ q)))
    return total / first.shape[1]


def _gradient(a: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    step = 1e-5 * np.eye(len(a))
    found = [_agreement(a + s, first, second) - _agreement(a - s, first, second) for s in step]
    return np.array(found) / 2e-5


def _logits(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(3, 7, 5, generator=generator, dtype=torch.float64)


def test_the_objective_and_its_gradient_against_plain_loops() -> None:
    first, second = _logits(0), _logits(1)
    a = torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64, requires_grad=True)
    found = agreement(a.softmax(0), first, second)
    found.backward()
    plain = (a.detach().numpy(), first.numpy(), second.numpy())
    assert found.item() == pytest.approx(_agreement(*plain), abs=1e-12)
    assert a.grad is not None
    np.testing.assert_allclose(a.grad.numpy(), _gradient(*plain), atol=1e-9)


def _experts() -> Any:
    return disturbed(started("experts")).double()


def _crops(count: int = 2) -> Tensor:
    noise = torch.randn(20, count, 6, generator=torch.Generator().manual_seed(8))
    return (make_rows()[0][:, None] + 0.4 * noise).double()


def _learned(crops: Tensor, seed: int = 0, least: float = LEAST_WEIGHT, **options: Any) -> Any:
    head = ADJUSTMENTS["sade_aggregation"](_experts(), make_context(), **options)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sade_aggregation, "LEAST_WEIGHT", least)
        return adapted(head, PredictedRows("test", "center", lambda view: crops, seed))


def test_learning_is_nesterov_steps_with_decay_up_the_agreement() -> None:
    ready, (found,) = _learned(_crops(), lr=0.3, epochs=4, weight_decay=0.01, least=0.0)
    with torch.no_grad():
        first, second = (
            ready.base.classify(ready.base.represent(_crops()[:, k])).numpy() for k in (0, 1)
        )
    a, velocity = np.full(3, 1 / 3), np.zeros(3)
    for _ in range(4):  # 20 rows are one batch
        down = -_gradient(a, first, second) + 0.01 * a
        velocity = 0.9 * velocity + down
        a = a - 0.3 * (down + 0.9 * velocity)
    np.testing.assert_allclose(found.learned["weights"], _softmax(a), atol=1e-8)
    assert found.learned["epochs"] == 4 and found.view == "rrc:2"
    weighed = sum(w * z for w, z in zip(_softmax(a), first, strict=True))
    np.testing.assert_allclose(ready(_crops()[:, 0]).detach().numpy(), weighed, atol=1e-6)


def test_without_epochs_the_prediction_is_the_mean_of_the_experts() -> None:
    ready, (found,) = _learned(_crops(), epochs=0)
    assert found.learned == {"weights": [1 / 3] * 3, "epochs": 0}
    torch.testing.assert_close(ready(_crops()[:, 0]), ready.base(_crops()[:, 0]))


def test_few_rows_are_gone_through_until_the_steps_are_made() -> None:
    options = {"batch": 8, "min_steps": 10, "least": 0.0}  # 20 rows are three batches
    few, many = (_learned(_crops(), epochs=epochs, **options)[1][0].learned for epochs in (2, 5))
    assert few["epochs"] == 4 and many["epochs"] == 5
    assert _learned(_crops(), epochs=0, **options)[1][0].learned["epochs"] == 0
    made = _learned(_crops(), epochs=4, batch=8, least=0.0)[1][0].learned
    assert few == made


def test_a_seed_repeats_the_weights_and_batches_are_shuffled_by_it() -> None:
    same = [_learned(_crops(), 3, batch=4, lr=0.2)[1][0].learned for _ in range(2)]
    assert same[0] == same[1]
    assert _learned(_crops(), 4, batch=4, lr=0.2)[1][0].learned != same[0]


def test_more_crops_are_other_pairs_in_later_epochs() -> None:
    crops = _crops(3)
    settings = {"lr": 0.2, "least": 0.0}
    pairs = {
        pair: _learned(crops[:, list(pair)], epochs=1, **settings)[1][0].learned["weights"]
        for pair in ((0, 1), (0, 2), (1, 2))
    }
    once = _learned(crops, epochs=1, **settings)[1][0].learned["weights"]
    near = [pair for pair, found in pairs.items() if np.allclose(found, once, atol=1e-12)]
    assert len(near) == 1
    twice = _learned(crops, epochs=2, **settings)[1][0].learned["weights"]
    repeated = _learned(crops[:, list(near[0])], epochs=2, **settings)[1][0].learned["weights"]
    assert not np.allclose(twice, repeated, atol=1e-9)


def test_learning_stops_once_a_weight_has_fallen_below_the_least() -> None:
    _, (found,) = _learned(_crops(), lr=20.0, epochs=50, weight_decay=0.0)
    assert found.learned["epochs"] < 50 and round(min(found.learned["weights"]), 2) < 0.05


def test_weights_follow_the_prior_of_the_rows() -> None:
    """Three experts of equal features that carry the prior, none, and the reverse."""
    counts = torch.tensor([400, 200, 100, 50, 25, 12, 6, 3])
    context, prior = HeadContext(8, 8, counts), (counts / counts.sum()).log() / 2
    base = HEADS["experts"](context)
    with torch.no_grad():
        base.weight.copy_(2 * torch.eye(8).expand(3, 8, 8))
        base.bias_vector.copy_(torch.stack([prior, 0 * prior, -prior]).flatten())
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(8).repeat_interleave(60)
    rows = torch.eye(8)[labels] + 0.3 * torch.randn(480, 8, generator=generator)
    crops = rows[:, None] + 0.3 * torch.randn(480, 2, 8, generator=generator)
    head = ADJUSTMENTS["sade_aggregation"](base, context, lr=0.5, epochs=20, batch=16)

    def weights(shift: str | None) -> list[float]:
        kept = np.arange(480) if shift is None else draw_rows(labels.numpy(), counts.numpy(), shift)
        unlabelled = PredictedRows("test", "center", lambda view: crops[kept])
        return list(adapted(head, unlabelled)[1][0].learned["weights"])

    assert weights("forward-50")[0] > 0.8
    assert weights("backward-50")[2] > 0.8
    assert max(weights(None)) < 0.45 and min(weights(None)) > 0.25


def test_what_it_cannot_weigh_is_refused() -> None:
    make, context = ADJUSTMENTS["sade_aggregation"], make_context()
    for name in ("linear", "reslt"):
        with pytest.raises(FitError, match="take head=experts in the stage before it"):
            make(started(name), context)
    with pytest.raises(FitError, match="take head=experts"):
        make(ADJUSTMENTS["posthoc"](started("experts"), context), context)
    for options in ({"lr": 0.0}, {"batch": 0}, {"epochs": -1}, {"min_steps": -1}):
        with pytest.raises(FitError, match=r"adjustment\.lr"):
            make(started("experts"), context, **options)
    with pytest.raises(FitError, match=r"'flip' has one: ltcache extract .* --views center,rrc:2"):
        _learned(_crops(1), view="flip")
