"""Every fusion in FUSIONS: inputs untouched, generator obeyed; then what each promises."""

from __future__ import annotations

import inspect
from collections import Counter

import pytest
import torch

from ltcache.errors import FitError
from ltcache.fusion import FUSIONS, H2T, BilateralBranches, Mixup

EXPERTS, ROWS, DIM = 3, 40, 30


def _rows(seed: int = 0, experts: int = EXPERTS) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(experts, ROWS, DIM, generator=generator)


def _pair(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    experts = 2 if name == "bbn" else EXPERTS  # it is for two branches
    return _rows(0, experts), _rows(1, experts)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=sorted(FUSIONS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_shape_and_dtype_stay_and_inputs_are_left_as_they_are(name: str) -> None:
    for dtype in (torch.float32, torch.float64):
        rows, partner = (part.to(dtype) for part in _pair(name))
        before = rows.clone(), partner.clone()
        fused = FUSIONS[name]()(rows, partner, _generator())
        assert fused.representation.shape == rows.shape and fused.representation.dtype == dtype
        assert torch.equal(rows, before[0]) and torch.equal(partner, before[1])
        assert fused.representation.data_ptr() not in (rows.data_ptr(), partner.data_ptr())
        assert 0 <= fused.share <= 1


def test_the_generator_decides(name: str) -> None:
    fusion, (rows, partner) = FUSIONS[name](), _pair(name)
    first, again, other = (fusion(rows, partner, _generator(seed), 0.5) for seed in (3, 3, 4))
    assert torch.equal(first.representation, again.representation) and first.share == again.share
    if name != "bbn":  # its mixture follows from the progress alone
        assert not torch.equal(first.representation, other.representation)


def test_a_fusion_says_whether_it_mixes_labels(name: str) -> None:
    fused = FUSIONS[name]()(*_pair(name), _generator(), 0.5)
    assert FUSIONS[name].mixes_labels == (fused.order is not None)


def test_gradients_reach_the_rows(name: str) -> None:
    rows, partner = _pair(name)
    rows.requires_grad_()
    FUSIONS[name]()(rows, partner, _generator()).representation.sum().backward()
    assert rows.grad is not None and torch.isfinite(rows.grad).all() and rows.grad.abs().sum() > 0


def test_hyper_parameters_are_keyword_only_and_named_apart() -> None:
    names: Counter[str] = Counter()
    for kind in FUSIONS.values():
        parameters = inspect.signature(kind).parameters.values()
        assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters)
        names.update(p.name for p in parameters)
        assert kind.reference and kind.equation
    assert max(names.values()) == 1


def _swapped(fused: torch.Tensor, rows: torch.Tensor, partner: torch.Tensor) -> torch.Tensor:
    """Return which channels came from the partner, (E, D); every row must agree."""
    from_partner = fused == partner
    assert ((fused == rows) ^ from_partner).all()
    assert (from_partner == from_partner[:, :1]).all(), "one set of channels for all rows"
    return from_partner[:, 0]


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.3, 0.99])
def test_h2t_swaps_one_set_of_channels_per_expert(ratio: float) -> None:
    rows, partner = _rows(), _rows(1)
    fused = H2T(ratio=ratio)(rows, partner, _generator())
    channels = _swapped(fused.representation, rows, partner)
    assert channels.sum(dim=1).tolist() == [int(ratio * DIM)] * EXPERTS
    if 3 <= ratio * DIM <= 15:
        assert len({tuple(c.tolist()) for c in channels}) == EXPERTS
    assert fused.order is None and fused.share == 1.0


def test_h2t_comes_to_every_channel_alike() -> None:
    rows, partner, generator = _rows(), _rows(1), _generator()
    total = torch.zeros(DIM)
    for _ in range(400):
        fused = H2T()(rows, partner, generator).representation
        total += _swapped(fused, rows, partner).float().sum(dim=0)
    torch.testing.assert_close(total / 1200, torch.full((DIM,), 7 / DIM), atol=0.05, rtol=0)


def test_h2t_at_its_ends() -> None:
    rows, partner = _rows(), _rows(1)
    assert torch.equal(H2T(ratio=0.0)(rows, partner, _generator()).representation, rows)
    assert torch.equal(H2T(ratio=1.0)(rows, partner, _generator()).representation, partner)


def test_h2t_needs_a_partner_of_as_many_rows() -> None:
    assert H2T.needs_partner and not Mixup.needs_partner
    with pytest.raises(FitError, match="H2T fuses two batches: name the sampler"):
        H2T()(_rows(), None, _generator())
    with pytest.raises(FitError, match="row by row"):
        H2T()(_rows(), _rows()[:, 1:], _generator())


def test_mixup_mixes_rows_of_one_batch_and_tells_whose_label_comes_second() -> None:
    rows = _rows()
    fused = Mixup(alpha=1.0)(rows, None, _generator())
    assert fused.order is not None
    assert torch.equal(fused.order.sort().values, torch.arange(ROWS))
    expected = fused.share * rows + (1 - fused.share) * rows[:, fused.order]
    torch.testing.assert_close(fused.representation, expected)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_the_share_of_mixup_follows_beta(alpha: float) -> None:
    generator = _generator()
    shares = torch.tensor([Mixup(alpha=alpha).draw_share(generator) for _ in range(4000)])
    variance = 1 / (4 * (2 * alpha + 1))
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(shares.var()) == pytest.approx(variance, rel=0.08)


def test_mixup_with_alpha_zero_mixes_nothing() -> None:
    fused = Mixup(alpha=0.0)(_rows(), None, _generator())
    assert fused.share == 1.0 and torch.equal(fused.representation, _rows())


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(FitError, match="alpha=-1 must not be negative"):
        Mixup(alpha=-1)
    for ratio in (-0.1, 1.1):
        with pytest.raises(FitError, match=rf"ratio={ratio} must lie in 0..1"):
            H2T(ratio=ratio)


def test_branches_move_from_the_batch_to_its_partner_along_a_parabola() -> None:
    rows, partner = _pair("bbn")
    for progress in (0.0, 0.3, 1.0):
        share = 1 - progress * progress
        fused = BilateralBranches()(rows, partner, _generator(), progress)
        torch.testing.assert_close(fused.representation[0], 2 * share * rows[0])
        torch.testing.assert_close(fused.representation[1], 2 * (1 - share) * partner[1])
        assert fused.of_partner and fused.share == pytest.approx(share)
        assert fused.order.tolist() == list(range(ROWS))


def test_branches_at_a_half_are_the_prediction_and_refuse_three() -> None:
    rows, _ = _pair("bbn")
    fused = BilateralBranches(share=0.5)(rows, rows, _generator(), 0.9)
    assert torch.equal(fused.representation, rows)
    with pytest.raises(FitError, match="two branches of head=branches, not 3"):
        BilateralBranches()(_rows(), _rows(1), _generator())
