"""Every loss in LOSSES: shapes, gradients, extremes, permutation, references; then each one's laws.

A loss with detached factors (seesaw's compensation) has no numerical derivative: ``SMOOTH``
switches them off for that one test.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.losses import (
    GCL,
    LADE,
    LDAM,
    LOSSES,
    BalancedSoftmax,
    ClassBalanced,
    CompensatedLogitAdjustment,
    CrossEntropy,
    FocalLoss,
    GeneralisedReweighting,
    LabelAwareSmoothing,
    LogitAdjustment,
    Loss,
    SeesawLoss,
    SeesawStatic,
)
from ltcache.losses import softmax as softmax_module
from ltcache.losses.gcl import cloud
from ltcache.losses.lade import lade_regulariser
from ltcache.losses.seesaw import seesaw_offset

COUNTS = torch.tensor([200, 50, 20, 3, 1])
DELTA = torch.tensor([0.01, 0.1, 0.4, 1.0, 2.5], dtype=torch.float64)
SMOOTH: dict[str, dict[str, Any]] = {"seesaw": {"q": 0.0}}


def _batch(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 5, generator=generator, dtype=dtype)
    return logits, torch.randint(0, 5, (12,), generator=generator)


def _build(
    name: str, counts: torch.Tensor = COUNTS, delta: torch.Tensor = DELTA, **options: Any
) -> Loss:
    """Build a loss with what it needs, in evaluation mode, after it has seen an epoch."""
    kind = LOSSES[name]
    needed = dict.fromkeys(kind.needs, delta)
    loss = kind(counts, **needed, **options).eval()
    loss.observe(torch.repeat_interleave(torch.arange(len(counts)), counts.long()))
    return loss


CLOSED = sorted(name for name, kind in LOSSES.items() if hasattr(kind, "gradient"))
WEIGHTED = sorted(name for name in LOSSES if _build(name).class_weights is not None)


@pytest.fixture(params=sorted(LOSSES))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def loss(name: str) -> Loss:
    return _build(name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_value_per_row_in_the_dtype_of_the_logits(loss: Loss, dtype: torch.dtype) -> None:
    logits, labels = _batch(dtype)
    values = loss(logits, labels)
    assert values.shape == (12,) and values.dtype == dtype


def test_gradient_is_right_in_double_precision(name: str) -> None:
    loss = _build(name, **SMOOTH.get(name, {}))
    logits, labels = _batch()
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), logits.requires_grad_())


def test_the_logits_are_left_as_they_are(loss: Loss) -> None:
    logits, labels = _batch()
    before = logits.clone()
    loss.train()(logits, labels)
    assert torch.equal(logits, before)


def test_finite_at_extreme_logits(loss: Loss) -> None:
    labels = torch.tensor([0, 4])
    logits = torch.tensor([[-1e4, 1e4, 0, 0, 0], [1e4, 0, 0, 0, -1e4]], requires_grad=True)
    values = loss(logits, labels)
    values.sum().backward()
    assert torch.isfinite(values).all()
    assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("right", [True, False])
def test_closed_form_is_finite_at_extreme_logits_of_every_loss(loss: Loss, right: bool) -> None:
    logits = torch.tensor([[-1e4, 1e4, 0, 0, 0], [1e4, 0, 0, 0, -1e4]])
    labels = torch.tensor([1, 0] if right else [0, 4])
    losses, gradient = loss.gradient(logits, labels, torch.ones(2))  # type: ignore[operator]
    assert torch.isfinite(losses).all() and torch.isfinite(gradient).all()


def test_relabelling_classes_and_counts_together_changes_nothing(name: str, loss: Loss) -> None:
    logits, labels = _batch()
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = _build(name, COUNTS[order], DELTA[order])
    torch.testing.assert_close(
        moved(logits[:, order], order.argsort()[labels]), loss(logits, labels)
    )
    if loss.class_weights is not None:
        torch.testing.assert_close(moved.class_weights, loss.class_weights[order])


def test_counts_live_in_buffers_only(name: str, loss: Loss) -> None:
    plain = [name for name, value in vars(loss).items() if isinstance(value, torch.Tensor)]
    assert plain == [] and "prior" in dict(loss.named_buffers())
    other = _build(name, torch.ones(5), torch.zeros(5))
    other.load_state_dict(loss.state_dict())
    logits, labels = _batch()
    torch.testing.assert_close(other(logits, labels), loss(logits, labels))
    torch.testing.assert_close(other.class_weights, loss.class_weights)


def test_an_empty_class_is_refused_unless_the_prior_is_smoothed(name: str) -> None:
    counts = torch.tensor([5, 0, 0, 1, 1])
    with pytest.raises(FitError, match=r"2 of 5 classes .* \(labels 1, 2\)"):
        _build(name, counts)
    smoothed = _build(name, counts, smooth_prior=True)
    torch.testing.assert_close(smoothed.prior * 12, torch.tensor([6, 1, 1, 2, 2.0]).double())
    logits, labels = _batch()
    assert torch.isfinite(smoothed.train()(logits, labels)).all()
    if smoothed.class_weights is not None:
        assert torch.isfinite(smoothed.class_weights).all()


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_closed_form_gradient_equals_autograd(
    loss: Loss, dtype: torch.dtype, training: bool
) -> None:
    loss.train(training)
    logits, labels = _batch(dtype)
    logits = (20 * logits).requires_grad_()
    weights = torch.rand(12, dtype=dtype)
    loss.generator = torch.Generator().manual_seed(3)
    values = loss(logits, labels)
    (values @ weights).backward()
    buffer = logits.detach().clone()
    loss.generator = torch.Generator().manual_seed(3)
    losses, gradient = loss.gradient(buffer, labels, weights)  # type: ignore[operator]
    assert gradient.data_ptr() == buffer.data_ptr()
    torch.testing.assert_close(losses, values.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient, logits.grad)


@pytest.mark.parametrize("name", WEIGHTED)
def test_without_imbalance_class_weights_are_equal_and_have_mean_one(name: str) -> None:
    for counts in (COUNTS, torch.full((5,), 7)):
        weights = _build(name, counts).class_weights
        assert weights is not None
        assert float(weights.mean()) == pytest.approx(1)
    torch.testing.assert_close(weights, torch.ones(5, dtype=torch.float64))


def test_everything_moves_with_the_module(name: str, loss: Loss) -> None:
    loss = loss.to("meta").train()
    labels = torch.zeros(4, dtype=torch.int64, device="meta")
    logits = torch.zeros(4, 5, device="meta", requires_grad=True)
    loss.observe(labels)
    loss(logits, labels).sum().backward()
    if hasattr(loss, "gradient"):
        loss.gradient(logits.detach(), labels, torch.ones(4, device="meta"))


def test_hyper_parameters_have_defaults_and_keep_their_names(name: str) -> None:
    loss = _build(name)
    for parameter in inspect.signature(LOSSES[name]).parameters.values():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if parameter.name not in loss.needs:
            assert getattr(loss, parameter.name) == parameter.default
    assert loss.reference and loss.equation and loss.corrects in ("none", "partial", "full")


def test_closed_form_is_finite_at_extreme_logits() -> None:
    logits = torch.tensor([[-1e4, 1e4, 0, 0, 0], [1e4, 0, 0, 0, -1e4]])
    losses, gradient = CrossEntropy(COUNTS).gradient(logits, torch.tensor([0, 4]), torch.ones(2))
    assert losses.tolist() == [2e4, 2e4] and torch.isfinite(gradient).all()


def test_logit_adjustment_is_cross_entropy_with_log_counts() -> None:
    logits, labels = _batch()
    expected = F.cross_entropy(logits + COUNTS.double().log(), labels, reduction="none")
    torch.testing.assert_close(LogitAdjustment(COUNTS)(logits, labels), expected)


@pytest.mark.parametrize(("counts", "tau"), [(torch.full((5,), 7), 1.0), (COUNTS, 0.0)])
def test_logit_adjustment_without_imbalance_or_tau_is_cross_entropy(
    counts: torch.Tensor, tau: float
) -> None:
    logits, labels = _batch()
    adjusted = LogitAdjustment(counts, tau=tau)(logits, labels)
    torch.testing.assert_close(adjusted, CrossEntropy(COUNTS)(logits, labels))


def test_what_prior_is_left() -> None:
    assert CrossEntropy(COUNTS).residual_prior(1.0) == 1.0
    assert CrossEntropy(COUNTS).residual_prior(0.0) == 0.0
    assert LogitAdjustment(COUNTS).residual_prior(1.0) == 0.0
    assert LogitAdjustment(COUNTS, tau=0.25).residual_prior(1.0) == 0.75


# references: plain loops over lists of floats, straight from the papers
Z, Y = (part.tolist() for part in _batch())
N = COUNTS.tolist()
PI = [n / sum(N) for n in N]
ROWS, CLASSES = len(Y), len(N)


def _plain_ce(row: list[float], label: int) -> float:
    return math.log(sum(math.exp(v) for v in row)) - row[label]


def _plain(row: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in row)
    return [math.exp(v) / total for v in row]


def _plain_tin(row: list[float], label: int) -> float:
    """TIN's published form, with its sum over the other classes."""
    others = 0.0
    for j in range(CLASSES):
        if j != label:
            m = (N[j] / N[label]) ** 0.7 if N[j] < N[label] else 1.0
            others += m * math.exp(row[j])
    return -math.log(math.exp(row[label]) / (others + math.exp(row[label])))


def _plain_seesaw(row: list[float], label: int) -> float:
    score = _plain(row)
    changed = list(row)
    for j in range(CLASSES):
        if j == label:
            continue
        m = (N[j] / N[label]) ** 0.8 if N[j] < N[label] else 1.0
        ratio = score[j] / max(score[label], 1e-2)
        changed[j] += math.log(m * (ratio**2 if ratio > 1 else 1.0))
    return _plain_ce(changed, label)


def _plain_smoothing(row: list[float], label: int) -> float:
    rank = (N[label] - min(N)) / (max(N) - min(N))
    eps = 0.3 * math.sin(math.pi * rank / 2)
    each = [_plain_ce(row, c) for c in range(CLASSES)]
    return (1 - eps) * each[label] + eps * sum(each) / CLASSES


def _plain_ldam(row: list[float], label: int) -> float:
    quarter = [n**-0.25 for n in N]
    changed = list(row)
    changed[label] -= 30 * 0.5 * quarter[label] / max(quarter)
    return _plain_ce(changed, label)


def _plain_lade(row: list[float], label: int) -> float:
    total = 0.0
    for c in range(CLASSES):
        own = [Z[i][c] for i in range(ROWS) if Y[i] == c]
        first = sum(own) / (len(own) + 1e-8)
        terms = [math.exp(Z[i][c]) / (PI[c] + 1e-9) / CLASSES for i in range(ROWS)]
        second = math.log(sum(terms)) - math.log(ROWS)
        total += PI[c] * (first - second - 0.1 * second**2)
    adjusted = [v + math.log(PI[c]) for c, v in enumerate(row)]
    return _plain_ce(adjusted, label) - 0.1 * total


def _plain_shifted(shift: Callable[[int], float]) -> Callable[[list[float], int], float]:
    return lambda row, label: _plain_ce([v + shift(c) for c, v in enumerate(row)], label)


REFERENCES: dict[str, Callable[[list[float], int], float]] = {
    "cross_entropy": _plain_ce,
    "focal": lambda row, label: (1 - _plain(row)[label]) ** 2 * _plain_ce(row, label),
    "class_balanced": _plain_ce,
    "generalised_reweighting": _plain_ce,
    "balanced_softmax": _plain_shifted(lambda c: math.log(N[c])),
    "logit_adjustment": _plain_shifted(lambda c: math.log(PI[c])),
    "compensated_logit_adjustment": _plain_shifted(
        lambda c: math.log(PI[c]) - 0.5 * float(DELTA[c])
    ),
    "ldam": _plain_ldam,
    "lade": _plain_lade,
    "gcl": _plain_ce,
    "seesaw": _plain_seesaw,
    "seesaw_static": _plain_tin,
    "label_aware_smoothing": _plain_smoothing,
}
WEIGHT_REFERENCES = {
    "class_balanced": [(1 - 0.9999) / (1 - 0.9999**n) for n in N],
    "generalised_reweighting": [1 / n for n in N],
    "ldam": [(1 - 0.9999) / (1 - 0.9999**n) for n in N],
}


def test_the_loss_equals_a_plain_reference(name: str, loss: Loss) -> None:
    logits, labels = _batch()
    expected = [REFERENCES[name](row, label) for row, label in zip(Z, Y, strict=True)]
    torch.testing.assert_close(
        loss(logits, labels), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9
    )


def test_class_weights_equal_a_plain_reference_of_mean_one(name: str, loss: Loss) -> None:
    if name not in WEIGHT_REFERENCES:
        assert loss.class_weights is None
        return
    raw = WEIGHT_REFERENCES[name]
    expected = [weight * CLASSES / sum(raw) for weight in raw]
    torch.testing.assert_close(loss.class_weights, torch.tensor(expected, dtype=torch.float64))


def _equal_losses(a: Loss, b: Loss) -> None:
    logits, labels = _batch()
    torch.testing.assert_close(a.eval()(logits, labels), b.eval()(logits, labels))


UNIFORM = torch.full((5,), 7)
LIMITS = {
    "focal, gamma 0": lambda: FocalLoss(COUNTS, gamma=0.0),
    "balanced softmax, uniform": lambda: BalancedSoftmax(UNIFORM),
    "static seesaw, p 0": lambda: SeesawStatic(COUNTS, p=0.0),
    "static seesaw, uniform": lambda: SeesawStatic(UNIFORM),
    "seesaw, p and q 0": lambda: SeesawLoss(COUNTS, p=0.0, q=0.0),
    "ldam, no margin": lambda: LDAM(COUNTS, max_margin=0.0),
    "smoothing 0": lambda: LabelAwareSmoothing(COUNTS, eps_head=0.0),
    "lade, alpha 0, uniform": lambda: LADE(UNIFORM, alpha=0.0),
    "gcl in evaluation": lambda: GCL(COUNTS),
}


@pytest.mark.parametrize("limit", sorted(LIMITS))
def test_limits_that_are_cross_entropy(limit: str) -> None:
    _equal_losses(LIMITS[limit](), CrossEntropy(COUNTS))


def test_balanced_softmax_is_logit_adjustment_with_tau_one() -> None:
    _equal_losses(BalancedSoftmax(COUNTS), LogitAdjustment(COUNTS, tau=1.0))


def test_compensation_zero_is_logit_adjustment_and_more_of_it_raises_rare_classes() -> None:
    _equal_losses(_build("compensated_logit_adjustment", lam=0.0), LogitAdjustment(COUNTS))
    plain = LogitAdjustment(COUNTS).offset
    raised = _build("compensated_logit_adjustment", lam=1.0).offset
    torch.testing.assert_close(plain - raised, DELTA)  # what a trained logit gains


def test_compensation_needs_a_finite_value_per_class() -> None:
    for delta in (torch.zeros(4), torch.tensor([0, 0, 0, 0, math.nan])):
        with pytest.raises(FitError, match="delta must be one finite value for each of 5 classes"):
            CompensatedLogitAdjustment(COUNTS, delta=delta)


def test_class_balanced_weights_run_from_equal_to_inverse_counts() -> None:
    assert ClassBalanced(COUNTS, beta=0.0).class_weights.tolist() == [1.0] * 5
    inverse = (1 / COUNTS.double()) / (1 / COUNTS.double()).mean()
    nearly = ClassBalanced(COUNTS, beta=1 - 1e-12).class_weights
    torch.testing.assert_close(nearly, inverse, rtol=1e-3, atol=0)
    _equal_losses(ClassBalanced(COUNTS, gamma=2.0), FocalLoss(COUNTS, gamma=2.0))


def test_ldam_takes_the_margin_off_the_label_only_and_defers_its_weights() -> None:
    loss = LDAM(COUNTS, max_margin=0.4, scale=20.0)
    assert float(loss.margin.max()) == pytest.approx(8) == float(loss.margin[4])
    logits, labels = _batch()
    lowered = logits.clone()
    lowered[torch.arange(12), labels] -= loss.margin[labels]
    torch.testing.assert_close(
        loss(logits, labels), F.cross_entropy(lowered, labels, reduction="none")
    )
    assert loss.weights_at(0.79) is None and loss.weights_at(0.8) is loss.class_weights
    assert LDAM(COUNTS, weights_from=0.0).weights_at(0.0) is not None


def test_the_regulariser_of_lade_is_in_the_mean_once() -> None:
    logits, labels = _batch()
    weights = torch.rand(12, dtype=torch.float64)
    weights /= weights.sum()
    adjusted = LADE(COUNTS, alpha=0.0)(logits, labels) @ weights
    regulariser = lade_regulariser(logits, labels, LADE(COUNTS).prior, 0.1)
    torch.testing.assert_close(LADE(COUNTS)(logits, labels) @ weights, adjusted + 0.1 * regulariser)


def test_seesaw_without_compensation_and_with_all_counts_seen_is_the_static_form() -> None:
    _equal_losses(_build("seesaw", p=0.6, q=0.0), SeesawStatic(COUNTS, p=0.6))


def test_seesaw_counts_what_it_observes_and_nothing_else() -> None:
    loss = SeesawLoss(COUNTS, q=0.0)
    _equal_losses(loss, CrossEntropy(COUNTS))  # nothing seen: all counts are one
    assert loss.seen.tolist() == [0] * 5
    loss.observe(torch.tensor([0, 0, 0, 1]))
    loss.observe(torch.tensor([0, 2]))
    assert loss.seen.tolist() == [4, 1, 1, 0, 0]
    _equal_losses(loss, SeesawStatic(torch.tensor([4, 1, 1, 1, 1]), p=0.8))


def test_no_gradient_goes_through_the_factors_of_seesaw() -> None:
    loss = _build("seesaw")
    logits, labels = _batch()
    logits.requires_grad_()
    loss(logits, labels).sum().backward()
    again = logits.detach().clone().requires_grad_()
    offset = seesaw_offset(again.detach(), labels, COUNTS.double(), 0.8, 2.0, 1e-2)
    F.cross_entropy(again + offset, labels, reduction="sum").backward()
    torch.testing.assert_close(logits.grad, again.grad)
    assert (offset[torch.arange(12), labels] == 0).all() and (offset > 0).any()


@pytest.mark.parametrize("rows", [1, 16, 17, 40])
@pytest.mark.parametrize("kind", ["seesaw", "seesaw_static"])
def test_seesaw_by_blocks_of_rows_is_the_whole(
    kind: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(softmax_module, "_IN_CACHE", 5 * 16)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(rows, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 5, (rows,), generator=generator)
    loss = _build(kind)
    losses, _ = loss.gradient(logits.clone(), labels, torch.ones(rows))  # type: ignore[operator]
    torch.testing.assert_close(losses, loss(logits, labels))


def test_smoothing_runs_from_the_tail_to_the_head_value_in_every_shape() -> None:
    for shape in ("sin", "linear", "exp", "convex"):
        eps = LabelAwareSmoothing(COUNTS, eps_head=0.4, eps_tail=0.1, shape=shape).eps
        assert float(eps[0]) == pytest.approx(0.4) and float(eps[4]) == pytest.approx(0.1)
        assert (eps[:-1] >= eps[1:]).all()
    half = torch.tensor([21, 11, 1])
    middle = {
        shape: float(LabelAwareSmoothing(half, eps_head=1.0, eps_tail=0.0, shape=shape).eps[1])
        for shape in ("sin", "linear", "exp", "convex")
    }
    assert middle == pytest.approx(
        {"sin": 0.5**0.5, "linear": 0.5, "exp": 0.25, "convex": 1 - 0.5**0.5}
    )
    uniform = LabelAwareSmoothing(UNIFORM, eps_head=0.4, eps_tail=0.1).eps
    torch.testing.assert_close(uniform, torch.full((5,), 0.1, dtype=torch.float64))


def test_equal_smoothing_is_label_smoothing() -> None:
    logits, labels = _batch()
    loss = LabelAwareSmoothing(COUNTS, eps_head=0.2, eps_tail=0.2)
    expected = F.cross_entropy(logits, labels, reduction="none", label_smoothing=0.2)
    torch.testing.assert_close(loss(logits, labels), expected)


def test_gcl_clouds_rare_classes_most_in_training_only() -> None:
    loss = GCL(COUNTS)
    assert float(loss.size[0]) == 0 and float(loss.size[4]) == pytest.approx(15)
    noise = cloud(torch.zeros(20000, 5), loss.size, torch.Generator().manual_seed(0)) / 15
    rarity = (200 / COUNTS.double()).log() / math.log(200)
    mean = (1 / 3) * math.sqrt(2 / math.pi)  # of |xi|, but for the limit at three deviations
    torch.testing.assert_close(noise.mean(dim=0).double(), mean * rarity, rtol=0.02, atol=0.001)
    assert float(noise.max()) == pytest.approx(1) and float(noise.min()) == 0
    quiet = GCL(COUNTS, noise_mul=0.0).train()
    logits, labels = _batch()
    torch.testing.assert_close(quiet(logits, labels), CrossEntropy(COUNTS)(logits, labels))


def test_gcl_draws_from_its_generator() -> None:
    loss = GCL(COUNTS).train()
    logits, labels = _batch()
    values = []
    for seed in (5, 5, 6):
        loss.generator = torch.Generator().manual_seed(seed)
        values.append(loss(logits, labels))
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])


def _plain_gcl(row: list[float], label: int, noise: list[float]) -> tuple[float, list[float]]:
    """Return the released loss of one row, and its slope with (1 - p) held fixed, from cosines."""
    rarity = [math.log(max(N)) - math.log(n) for n in N]
    cosine = [
        v - 0.5 * abs(x) * r / max(rarity) for v, x, r in zip(row, noise, rarity, strict=True)
    ]
    cosine[label] -= 0.1
    scaled = [20 * v for v in cosine]
    doubt = 1 - _plain(scaled)[label]
    slope = [doubt * (p - (c == label)) for c, p in enumerate(_plain(scaled))]
    return doubt * _plain_ce(scaled, label), slope


def test_gcl_of_the_second_stage_equals_a_plain_reference_and_autograd() -> None:
    loss = GCL(COUNTS, margin=0.1, gamma=1.0, scale=20.0).train()
    cosines, labels = _batch()
    cosines = cosines / 8
    seeded = torch.Generator().manual_seed(7)
    noise = (torch.randn(12, 5, generator=seeded, dtype=torch.float64) / 3).clamp(-1, 1)
    plain = [_plain_gcl(*each) for each in zip(cosines.tolist(), Y, noise.tolist(), strict=True)]
    values = torch.tensor([value for value, _ in plain], dtype=torch.float64)
    slopes = torch.tensor([slope for _, slope in plain], dtype=torch.float64)
    weights = torch.rand(12, dtype=torch.float64)

    loss.generator = torch.Generator().manual_seed(7)
    logits = (20 * cosines).requires_grad_()
    (loss(logits, labels) @ weights).backward()
    torch.testing.assert_close(logits.grad, weights[:, None] * slopes, rtol=1e-10, atol=1e-12)
    loss.generator = torch.Generator().manual_seed(7)
    losses, gradient = loss.gradient(20 * cosines, labels, weights)
    torch.testing.assert_close(losses, values, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient, logits.grad, rtol=1e-10, atol=1e-12)


def test_gcl_without_noise_is_a_margin_and_a_detached_focal_factor() -> None:
    logits, labels = _batch()
    lowered = logits - 3 * F.one_hot(labels, 5)
    margin = GCL(COUNTS, noise_mul=0.0, margin=0.1).train()
    torch.testing.assert_close(margin(logits, labels), CrossEntropy(COUNTS)(lowered, labels))
    focal = GCL(COUNTS, noise_mul=0.0, gamma=2.0).train()
    torch.testing.assert_close(focal(logits, labels), FocalLoss(COUNTS)(logits, labels))


@pytest.mark.parametrize(
    ("kind", "options", "text"),
    [
        (GCL, {"gamma": -1.0}, "gamma=-1.0 must not be negative"),
        (FocalLoss, {"gamma": -1.0}, "gamma=-1.0 must not be negative"),
        (ClassBalanced, {"beta": 1.0}, "beta=1.0 must lie in 0 <= beta < 1"),
        (LDAM, {"beta": -0.1}, "beta=-0.1 must lie"),
        (LabelAwareSmoothing, {"shape": "sine"}, "shape='sine' is none of sin, linear"),
        (LabelAwareSmoothing, {"eps_head": 1.5}, "eps_head=1.5 must lie in 0..1"),
        (SeesawLoss, {"floor": 0.0}, "floor=0.0 must lie in 0 < floor <= 1"),
    ],
)
def test_impossible_settings_are_refused(
    kind: type[Loss], options: dict[str, Any], text: str
) -> None:
    with pytest.raises(FitError, match=text):
        kind(COUNTS, **options)


def test_what_prior_reweighting_and_the_others_leave() -> None:
    assert GeneralisedReweighting(COUNTS).residual_prior(1.0) == 0.0
    assert GeneralisedReweighting(COUNTS, rho=1.2).residual_prior(1.0) == pytest.approx(-0.2)
    assert BalancedSoftmax(COUNTS).residual_prior(1.0) == 0.0
    assert LADE(COUNTS).residual_prior(1.0) == 0.0
    partial = {name for name, kind in LOSSES.items() if kind.corrects == "partial"}
    assert partial == {"class_balanced", "ldam", "gcl", "seesaw", "seesaw_static"}


def _best_without_features(loss: Loss, rows: torch.Tensor) -> torch.Tensor:
    """Return the best logits, centred (C,), where features say nothing and classes come as rows."""
    if loss.class_weights is not None:
        rows = rows * loss.class_weights
    rows = rows / rows.sum()
    logits = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value = loss(logits.expand(5, 5), torch.arange(5)) @ rows
        value.backward()
        return value

    for _ in range(3):
        optimiser.step(closure)
    return logits.detach() - logits.detach().mean()


@pytest.mark.parametrize("drawn", [1.0, 0.5])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cross_entropy", {}),
        ("balanced_softmax", {}),
        ("logit_adjustment", {"tau": 0.5}),
        ("generalised_reweighting", {}),
        ("generalised_reweighting", {"rho": 0.5}),
        ("lade", {"alpha": 0.0}),
    ],
)
def test_the_exponent_that_is_left_is_the_one_that_training_leaves(
    name: str, options: dict[str, float], drawn: float
) -> None:
    shares = COUNTS.double() ** drawn
    loss = LOSSES[name](shares * 1000, **options)
    left = loss.residual_prior(drawn) * COUNTS.double().log()
    torch.testing.assert_close(
        _best_without_features(loss, shares), left - left.mean(), atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize(("alpha", "lam", "most"), [(0.1, 0.1, 0.025), (0.05, 0.5, 0.06)])
def test_the_regulariser_of_lade_brings_little_of_the_prior_back(
    alpha: float, lam: float, most: float
) -> None:
    found = _best_without_features(LADE(COUNTS, alpha=alpha, lam=lam), COUNTS.double())
    log_counts = COUNTS.double().log() - COUNTS.double().log().mean()
    assert 0 < float(found @ log_counts / (log_counts @ log_counts)) < most


def test_seesaw_leaves_more_of_the_prior_than_logit_adjustment() -> None:
    found = _best_without_features(SeesawStatic(COUNTS), COUNTS.double())
    assert (found[:-1] > found[1:]).all() and float(found[0] - found[-1]) < math.log(200)
