"""Every adjustment and weight transform: contract, oracles, plain references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from ltcache.adjustments import ADJUSTMENTS, WEIGHT_TRANSFORMS, Adjustment
from ltcache.adjustments.base import PredictedRows, adapted
from ltcache.errors import FitError
from ltcache.heads import HEADS, HeadContext, predict_logits
from ltcache.heads.base import keyword_arguments
from tests.heads.started import CLASSES, DIM, disturbed, make_context, make_rows, started

NAMES = sorted(ADJUSTMENTS)
BASES = ["linear", "knn", "experts", "tip_adapter"]
OF_EXPERTS = ("sade_aggregation",)


def _ready(head: Adjustment) -> Adjustment:
    """Return a head that has learned, where it is transductive, from rows of two random crops."""
    features, noise = make_rows()[0], torch.randn(20, 2, DIM, generator=torch.manual_seed(8))
    seen = {"center": features[:, None], "rrc:2": features[:, None] + 0.3 * noise}
    ready = adapted(head.eval(), PredictedRows("test", "center", seen.__getitem__))[0]
    assert isinstance(ready, Adjustment)
    return ready


def _base_of(name: str) -> str:
    return "experts" if name in OF_EXPERTS else "linear"


def _adjusted(
    name: str, base: str | None = None, context: HeadContext | None = None, **options: Any
) -> Adjustment:
    context, base = context or make_context(), base or _base_of(name)
    adjusted = ADJUSTMENTS[name](disturbed(started(base, context)), context, **options)
    adjusted.fit(*make_rows(base), None, context)
    return _ready(adjusted)


def _zero_shot(features: torch.Tensor, scale: float = 20.0) -> torch.Tensor:
    text = make_context().text_features
    assert text is not None
    return scale * F.normalize(features, dim=1) @ text.T.to(features.dtype)


@pytest.mark.parametrize(
    ("name", "base"),
    [(n, b) for n in NAMES for b in BASES if n not in OF_EXPERTS or b == "experts"],
)
def test_any_head_can_be_adjusted_and_saved(name: str, base: str, tmp_path: Path) -> None:
    head = _adjusted(name, base)
    features, _ = make_rows()
    logits = head(features)
    assert logits.shape == (20, CLASSES) and logits.dtype == torch.float32
    torch.testing.assert_close(predict_logits(head, features, block=7), logits.detach())
    save_file(head.state_dict(), tmp_path / "h.safetensors")
    state = load_file(tmp_path / "h.safetensors")
    text = {"text_features": make_context().text_features}
    bare = HeadContext(DIM, CLASSES, make_context().class_counts, logit_scale=20.0, **text)
    again = ADJUSTMENTS[name](HEADS[base](bare, **head.base.config()), bare, **head.config())
    again.load_state_dict(state)
    assert torch.equal(_ready(again)(features), logits)


@pytest.mark.parametrize("name", NAMES)
def test_pooled_features_meet_texts_through_the_projection(name: str) -> None:
    context = make_context(pooled=True)
    head = _adjusted(name, context=context)
    bare = HeadContext(
        DIM, CLASSES, context.class_counts, text_features=context.text_features, logit_scale=20.0
    )
    again = ADJUSTMENTS[name](HEADS[_base_of(name)](bare), bare, **head.config())
    again.load_state_dict(head.state_dict())
    features, _ = make_rows()
    assert torch.equal(_ready(again)(features), head(features))


@pytest.mark.parametrize("name", NAMES)
def test_classes_are_interchangeable(name: str) -> None:
    features, labels = make_rows()
    order = torch.tensor([3, 0, 4, 1, 2])
    there = make_context(order=order)
    base = _base_of(name)
    before = ADJUSTMENTS[name](started(base), make_context())
    before.fit(features, labels, None, make_context())
    moved_rows = (features, order.argsort()[labels])
    moved = ADJUSTMENTS[name](started(base, there, moved_rows), there)
    moved.fit(*moved_rows, None, there)
    before, moved = _ready(before), _ready(moved)
    torch.testing.assert_close(moved(features), before(features)[:, order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_in_double_precision_and_extremes(name: str) -> None:
    features, _ = make_rows(dtype=torch.float64)
    head = _adjusted(name).double()
    assert torch.autograd.gradcheck(head, features[:3].requires_grad_())
    for factor in (0.0, 1e-12, 1e6):
        assert torch.isfinite(_adjusted(name)(factor * make_rows()[0])).all()


@pytest.mark.parametrize("name", NAMES)
def test_what_acts_at_prediction_may_be_set_afterwards(name: str) -> None:
    features, _ = make_rows()
    for option in ADJUSTMENTS[name].at_prediction:
        head = _adjusted(name)
        setattr(head, option, 0.25)
        assert torch.equal(head(features), _adjusted(name, **{option: 0.25})(features))


def test_posthoc_against_its_formula() -> None:
    features, _ = make_rows(dtype=torch.float64)
    base = disturbed(started("linear")).double()
    counts = np.array([9, 5, 3, 2, 1])
    head = ADJUSTMENTS["posthoc"](base, make_context(), tau=0.7, residual=0.5).double()
    weight, bias = base.weight.detach().numpy(), base.bias_vector.detach().numpy()
    expected = features.numpy() @ weight.T + bias - 0.35 * np.log(counts / 20)
    np.testing.assert_allclose(head(features).detach().numpy(), expected, rtol=1e-12)
    affine = head.affine()
    np.testing.assert_allclose(F.linear(features, *affine).detach().numpy(), expected, rtol=1e-12)
    assert head.residual_after(0.5) == pytest.approx(0.15)
    assert head.residual_after(None) is None


def test_posthoc_undoes_what_logit_adjustment_puts_into_the_loss() -> None:
    """CE of z is CE of (z - log pi) + log pi: the loss-side and the post-hoc form are one."""
    features, labels = make_rows(dtype=torch.float64)
    base = disturbed(started("linear")).double()
    head = ADJUSTMENTS["posthoc"](base, make_context()).double()
    log_prior = torch.log(make_context().class_counts.double() / 20)
    torch.testing.assert_close(
        F.cross_entropy(head(features) + log_prior, labels),
        F.cross_entropy(base(features), labels),
    )
    head.tau = 0.0
    torch.testing.assert_close(head(features), base(features))
    assert head.residual_after(1.0) == 1.0


def test_posthoc_of_equal_counts_moves_no_prediction_and_spares_no_empty_class() -> None:
    features, _ = make_rows()
    base = disturbed(started("linear"))
    equal = HeadContext(DIM, CLASSES, torch.full((CLASSES,), 7))
    adjusted = ADJUSTMENTS["posthoc"](base, equal)(features)
    torch.testing.assert_close(adjusted.softmax(1), base(features).softmax(1))
    empty = HeadContext(DIM, CLASSES, torch.tensor([3, 0, 1, 1, 1]))
    with pytest.raises(FitError, match="no training rows"):
        ADJUSTMENTS["posthoc"](base, empty)
    smooth = ADJUSTMENTS["posthoc"](base, empty, smooth_prior=True)
    assert torch.isfinite(smooth(features)).all()


@pytest.mark.parametrize("space", ["probabilities", "logits"])
def test_zero_shot_ensemble_against_its_formula(space: str) -> None:
    features, _ = make_rows(dtype=torch.float64)
    base = disturbed(started("linear")).double()
    for weight in (0.0, 0.3, 1.0):
        options = {"weight": weight, "space": space}
        head = ADJUSTMENTS["zero_shot_ensemble"](base, make_context(), **options).double()
        own, other = base(features).detach(), _zero_shot(features)
        expected = (1 - weight) * own.softmax(1) + weight * other.softmax(1)
        if space == "logits":
            expected = ((1 - weight) * own + weight * other).softmax(1)
        torch.testing.assert_close(head(features).softmax(1).detach(), expected, atol=1e-6, rtol=0)


def test_what_prior_an_ensemble_carries() -> None:
    def left(weight: float, space: str, before: float | None) -> float | None:
        options = {"weight": weight, "space": space}
        return _adjusted("zero_shot_ensemble", **options).residual_after(before)

    assert left(0.5, "probabilities", 0.0) == 0.0
    assert left(0.5, "probabilities", 1.0) is None
    assert left(0.5, "logits", 1.0) == 0.5
    assert left(0.0, "probabilities", 1.0) == 1.0
    assert left(1.0, "probabilities", None) == 0.0
    with pytest.raises(FitError, match=r"within 0\.\.1"):
        _adjusted("zero_shot_ensemble", weight=2.0)(make_rows()[0])
    with pytest.raises(FitError, match="probabilities, logits"):
        _adjusted("zero_shot_ensemble", space="odds")


def test_gla_adds_zero_shot_and_takes_both_priors_off() -> None:
    features, _ = make_rows()
    head = _adjusted("gla")
    prior = torch.log(make_context().class_counts / 20)
    expected = head.base(features) + _zero_shot(features) - prior - head.log_q.float()
    torch.testing.assert_close(head(features), expected)
    assert head.residual_after(1.0) == 0.0
    assert head.log_q.exp().sum().item() == pytest.approx(1.0)


def test_gla_prior_is_where_zero_shot_names_each_class_equally_often() -> None:
    features, labels = make_rows()
    log_q = _adjusted("gla").log_q.numpy()
    logits = _zero_shot(features).double().numpy()
    balanced = 1 / np.bincount(labels)[labels] / CLASSES

    def named(offset: np.ndarray) -> np.ndarray:
        scores = np.exp(logits - offset - (logits - offset).max(1, keepdims=True))
        return balanced @ (scores / scores.sum(1, keepdims=True))

    np.testing.assert_allclose(named(log_q), 1 / CLASSES, atol=1e-6)
    assert np.abs(named(np.zeros(CLASSES)) - 1 / CLASSES).max() > 0.01


def test_gla_finds_a_planted_prior() -> None:
    """Calibrated balanced logits plus log q: the estimate is q, up to sampling error."""
    generator = torch.Generator().manual_seed(0)
    planted = torch.tensor([0.4, 0.3, 0.2, 0.07, 0.03], dtype=torch.float64)
    scores = 2 * torch.randn(40_000, CLASSES, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(scores.softmax(1), 1, generator=generator)[:, 0]
    from ltcache.adjustments.gla import balanced_log_prior

    found = balanced_log_prior(scores + planted.log(), labels, None).exp()
    torch.testing.assert_close(found, planted, atol=0.01, rtol=0.05)
    with pytest.raises(FitError, match="every class"):
        balanced_log_prior(scores, labels.clamp(max=3), None)


def test_tau_norm_zero_leaves_weights_and_one_makes_them_equally_long() -> None:
    base = disturbed(started("linear"))
    features, _ = make_rows()
    same = WEIGHT_TRANSFORMS["tau_norm"](base, tau=0.0)
    assert torch.equal(same(features), features @ base.weight.T)
    unit = WEIGHT_TRANSFORMS["tau_norm"](base, tau=1.0)
    torch.testing.assert_close(unit.weight.norm(dim=1), torch.ones(CLASSES))
    assert base.bias_vector.abs().sum() > 0, "the head before stays as it was"
    assert type(unit) is type(base) and set(unit.state_dict()) == set(base.state_dict())


def test_tau_norm_against_its_formula() -> None:
    base = disturbed(started("linear")).double()
    features, _ = make_rows(dtype=torch.float64)
    weight = base.weight.detach().numpy()
    expected = features.numpy() @ (weight / np.linalg.norm(weight, axis=1)[:, None] ** 0.6).T
    found = WEIGHT_TRANSFORMS["tau_norm"](base, tau=0.6)(features)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-12)
    with pytest.raises(FitError, match="not of a CosineHead"):
        WEIGHT_TRANSFORMS["tau_norm"](started("cosine"))


def test_weight_ensemble_runs_from_the_texts_to_the_head() -> None:
    features, _ = make_rows()
    base = disturbed(started("cosine"))
    mix = WEIGHT_TRANSFORMS["weight_ensemble"]
    torch.testing.assert_close(mix(base, make_context(), alpha=1.0)(features), base(features))
    texts = mix(base, make_context(), alpha=0.0)(features)
    torch.testing.assert_close(texts, _zero_shot(features, base.scale))
    half = mix(base, make_context()).weight
    torch.testing.assert_close(half, (base.weight + make_context().text_features) / 2)
    with pytest.raises(FitError, match="LinearHead"):
        mix(started("linear"), make_context())


def test_hyper_parameters_of_functions_are_listed() -> None:
    assert keyword_arguments(WEIGHT_TRANSFORMS["tau_norm"]) == {"tau": 1.0}
    assert keyword_arguments(ADJUSTMENTS["gla"])["residual"] == 1.0
