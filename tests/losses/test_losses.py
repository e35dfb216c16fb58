"""Every loss in LOSSES: shapes, gradients, extremes, permutation; then each one's laws."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.losses import LOSSES, CrossEntropy, LogitAdjustment, Loss

COUNTS = torch.tensor([200, 50, 20, 3, 1])


def _batch(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 5, generator=generator, dtype=dtype)
    return logits, torch.randint(0, 5, (12,), generator=generator)


@pytest.fixture(params=sorted(LOSSES))
def loss(request: pytest.FixtureRequest) -> Loss:
    return LOSSES[request.param](COUNTS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_value_per_row_in_the_dtype_of_the_logits(loss: Loss, dtype: torch.dtype) -> None:
    logits, labels = _batch(dtype)
    values = loss(logits, labels)
    assert values.shape == (12,) and values.dtype == dtype


def test_gradient_is_right_in_double_precision(loss: Loss) -> None:
    logits, labels = _batch()
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), logits.requires_grad_())


def test_finite_at_extreme_logits(loss: Loss) -> None:
    labels = torch.tensor([0, 4])
    logits = torch.tensor([[-1e4, 1e4, 0, 0, 0], [1e4, 0, 0, 0, -1e4]], requires_grad=True)
    values = loss(logits, labels)
    values.sum().backward()
    assert torch.isfinite(values).all()
    assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]


def test_relabelling_classes_and_counts_together_changes_nothing(loss: Loss) -> None:
    logits, labels = _batch()
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = type(loss)(COUNTS[order])
    torch.testing.assert_close(
        moved(logits[:, order], order.argsort()[labels]), loss(logits, labels)
    )


def test_counts_live_in_buffers_only(loss: Loss) -> None:
    plain = [name for name, value in vars(loss).items() if isinstance(value, torch.Tensor)]
    assert plain == [] and "prior" in dict(loss.named_buffers())
    other = type(loss)(torch.ones(5))
    other.load_state_dict(loss.state_dict())
    logits, labels = _batch()
    torch.testing.assert_close(other(logits, labels), loss(logits, labels))


def test_an_empty_class_is_refused_unless_the_prior_is_smoothed(loss: Loss) -> None:
    counts = torch.tensor([5, 0, 0, 1, 1])
    with pytest.raises(FitError, match=r"2 of 5 classes .* \(labels 1, 2\)"):
        type(loss)(counts)
    smoothed = type(loss)(counts, smooth_prior=True)
    torch.testing.assert_close(smoothed.prior * 12, torch.tensor([6, 1, 1, 2, 2.0]).double())
    logits, labels = _batch()
    assert torch.isfinite(smoothed(logits, labels)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_closed_form_gradient_equals_autograd(loss: Loss, dtype: torch.dtype) -> None:
    if not hasattr(loss, "gradient"):
        pytest.skip("no closed form")
    logits, labels = _batch(dtype)
    logits = (20 * logits).requires_grad_()
    weights = torch.rand(12, dtype=dtype)
    values = loss(logits, labels)
    (values @ weights).backward()
    buffer = logits.detach().clone()
    losses, gradient = loss.gradient(buffer, labels, weights)  # type: ignore[operator]
    assert gradient.data_ptr() == buffer.data_ptr()
    torch.testing.assert_close(losses, values.detach())
    torch.testing.assert_close(gradient, logits.grad)


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
