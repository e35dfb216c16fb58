"""The full-batch solver: scikit-learn's optimum, a zero gradient, refusals."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from ltcache.errors import FitError
from ltcache.fit import FittedHead, LabelledRows, fit_head
from ltcache.fit.convex import ConvexProblem, ObjectiveValue
from ltcache.heads import HeadContext
from ltcache.methods import METHODS, override
from tests.benchmarks import bench_convex

COUNTS = torch.tensor([60, 30, 12, 6])
DECAY = 0.02


def _rows() -> LabelledRows:
    generator = torch.Generator().manual_seed(0)
    labels = torch.repeat_interleave(torch.arange(4), COUNTS)
    means = torch.randn(4, 7, generator=generator)
    features = means[labels] + torch.randn(len(labels), 7, generator=generator)
    return LabelledRows(features * torch.logspace(0, -1, 7) + 2, labels)


def _fit(name: str, rows: LabelledRows, **overrides: object) -> FittedHead:
    settings = {
        "optimisation.optimiser": "lbfgs", "optimisation.weight_decay": DECAY,
        "optimisation.tolerance": 1e-6, "feature.transform": "none",
    }  # fmt: skip
    settings |= {key.replace("__", "."): value for key, value in overrides.items()}
    method = override(METHODS[name], settings)
    return fit_head(method, rows, HeadContext(7, 4, COUNTS), choose=False)


def _objective(
    fitted: FittedHead, rows: LabelledRows, weights: torch.Tensor, offset: torch.Tensor | float
):  # type: ignore[no-untyped-def]
    """Return the objective in float64, and its gradient in weight and bias."""
    weight, bias = (t.detach().double().requires_grad_() for t in fitted.head.affine())
    logits = rows.features.double() @ weight.T + bias + offset
    losses = torch.nn.functional.cross_entropy(logits, rows.labels, reduction="none")
    value = (weights * losses).sum() / weights.sum() + DECAY / 2 * (weight**2).sum()
    return value, torch.autograd.grad(value, (weight, bias))


@pytest.mark.parametrize("sampler", ["instance", "class_balanced", "square_root"])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_reaches_the_optimum_of_scikit_learn(sampler: str, weighted: bool) -> None:
    rows = _rows()
    own = torch.rand(len(rows)).double() + 0.5 if weighted else torch.ones(len(rows)).double()
    if weighted:
        rows = LabelledRows(rows.features, rows.labels, own.float())
    exponent = {"instance": 0.0, "class_balanced": -1.0, "square_root": -0.5}[sampler]
    weights = own * COUNTS[rows.labels].double() ** exponent
    fitted = _fit("ce", rows, sampler=sampler)
    peer = LogisticRegression(C=1 / (DECAY * float(weights.sum())), tol=1e-12, max_iter=5000)
    peer.fit(rows.features.double().numpy(), rows.labels.numpy(), weights.numpy())
    weight, bias = (t.detach().numpy() for t in fitted.head.affine())  # type: ignore[union-attr]
    np.testing.assert_allclose(weight, peer.coef_, atol=2e-3)
    centred = bias - bias.mean(), peer.intercept_ - peer.intercept_.mean()
    np.testing.assert_allclose(*centred, atol=1e-2)
    value, gradient = _objective(fitted, rows, weights, 0.0)
    assert fitted.history[-1]["loss"] == pytest.approx(float(value.detach()), rel=1e-5)
    assert max(float(g.abs().max()) for g in gradient) < 2e-5


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_logit_adjustment_ends_where_its_gradient_is_zero(tau: float) -> None:
    rows = _rows()
    fitted = _fit("logit-adjustment", rows, loss__tau=tau)
    offset = tau * (COUNTS / COUNTS.sum()).double().log()
    _, gradient = _objective(fitted, rows, torch.ones(len(rows)).double(), offset)
    assert max(float(g.abs().max()) for g in gradient) < 2e-5


def test_every_start_and_seed_ends_at_one_optimum_and_no_bias_stays_none() -> None:
    rows = _rows()
    one, other = _fit("ce", rows), _fit("ce", rows, init="class_mean")
    for a, b in zip(one.head.parameters(), other.head.parameters(), strict=True):
        torch.testing.assert_close(a - a.mean(0), b - b.mean(0), atol=2e-3, rtol=0)
    fitted = _fit("ce", rows, head__bias=False)
    peer = LogisticRegression(C=1 / (DECAY * len(rows)), tol=1e-12, fit_intercept=False,
                              max_iter=5000)  # fmt: skip
    peer.fit(rows.features.double().numpy(), rows.labels.numpy())
    weight = fitted.head.affine().weight.detach().numpy()  # type: ignore[union-attr]
    np.testing.assert_allclose(weight, peer.coef_, atol=2e-3)


def test_iterations_are_limited_and_a_choice_on_validation_rows_is_none() -> None:
    rows = _rows()
    assert _fit("ce", rows, optimisation__epochs=2).best_epochs == (2,)
    method = override(METHODS["ce"], {"optimisation.optimiser": "lbfgs"})
    fitted = fit_head(method, rows, HeadContext(7, 4, COUNTS), val=rows)
    assert len(fitted.history) == 1 and "val_mean_per_class" in fitted.history[0]


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("lift-lp", {}, "'cosine' is not linear"),
        ("focal", {}, "'focal' is no cross entropy"),
        ("ce", {"fusion": "mixup"}, "has fusions"),
    ],
)
def test_what_is_not_convex_is_refused_with_the_reason(
    name: str, settings: dict[str, object], reason: str
) -> None:
    with pytest.raises(FitError, match=reason):
        _fit(name, _rows(), **settings)


def test_classes_that_separate_take_few_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = bench_convex.data(rows=4000, dim=256, classes=100, spread=0.5)
    evaluations, plain = [], ConvexProblem.__call__

    def counted(problem: ConvexProblem, point: torch.Tensor) -> ObjectiveValue:
        evaluations.append(plain(problem, point))
        return evaluations[-1]

    monkeypatch.setattr(ConvexProblem, "__call__", counted)
    trace = bench_convex.ours(features, labels, 1 / (100 * 4000), time.process_time)
    assert trace[-1][1] < 0.00084  # scikit-learn's optimum at C = 100 is 0.000843
    assert len(evaluations) <= 40  # 97 where directions have the variance of all rows
