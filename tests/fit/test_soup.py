"""Averages of heads that are trained on balanced subsets, against plain loops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from ltcache.errors import UsageError
from ltcache.fit import FittedHead, LabelledRows, fit_head
from ltcache.fit.soup import draw_subset, subset_sizes
from ltcache.heads import HeadContext
from ltcache.methods import METHODS, override

COUNTS = torch.tensor([40, 11, 7, 5])
DIM = 6
DRAW = torch.Generator().manual_seed(0)
LABELS = torch.repeat_interleave(torch.arange(4), COUNTS)[torch.randperm(63, generator=DRAW)]
FEATURES = torch.randn(4, DIM, generator=DRAW, dtype=torch.float64)[LABELS] + torch.randn(
    63, DIM, generator=DRAW, dtype=torch.float64
)
ROWS = LabelledRows(FEATURES.float(), LABELS)
BATCH = {"optimisation.batch": 8, "optimisation.epochs": 2}


def _fit(rows: LabelledRows, counts: torch.Tensor, **settings: Any) -> FittedHead:
    plain = {"feature.transform": "none", "loss": "logit_adjustment", **BATCH}
    method = override(METHODS["ce"], {**plain, **settings})
    context = HeadContext(DIM, 4, counts)
    return fit_head(method, rows, context, choose=False)


@pytest.mark.parametrize(
    ("subsets", "sizes"),
    [(None, [5, 10, 20, 40]), (1, [40]), (2, [5, 40]), (4, [5, 10, 20, 40]), (3, [5, 14, 40])],
)
def test_sizes_go_from_the_rarest_class_to_the_most_frequent(
    subsets: int | None, sizes: list[int]
) -> None:
    assert subset_sizes(COUNTS, subsets) == subset_sizes(torch.tensor([0, 40, 5]), subsets) == sizes
    assert subset_sizes(torch.tensor([7, 7]), subsets) == [7]


def test_a_subset_has_at_most_so_many_rows_of_each_class() -> None:
    first = draw_subset(LABELS, 10, torch.Generator().manual_seed(1))
    assert torch.bincount(LABELS[first], minlength=4).tolist() == [10, 10, 7, 5]
    assert len(set(first.tolist())) == len(first) and first.tolist() == sorted(first.tolist())
    again = draw_subset(LABELS, 10, torch.Generator().manual_seed(1))
    other = draw_subset(LABELS, 10, torch.Generator().manual_seed(2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert draw_subset(LABELS, 40, torch.Generator()).tolist() == list(range(63))


def test_one_subset_of_all_rows_that_counts_whole_is_plain_training() -> None:
    soup = _fit(ROWS, COUNTS, soup=1.0, subsets=1).head.state_dict()
    plain = _fit(ROWS, COUNTS).head.state_dict()
    assert all(torch.equal(soup[name], plain[name]) for name in plain)


@pytest.mark.parametrize("share", [0.7, 0.25])
def test_weights_are_the_moving_average_of_heads_trained_on_each_subset(share: float) -> None:
    """One batch holds a whole subset, so that the order of its rows plays no part."""
    whole = {"optimisation.batch": 63, "optimisation.epochs": 3, "init": "class_mean"}
    found = _fit(ROWS, COUNTS, soup=share, **whole).head.state_dict()
    start = _fit(ROWS, COUNTS, **whole, **{"optimisation.lr": 1e-30}).head.state_dict()
    draws = torch.Generator().manual_seed(5 * 0x9E3779B9)  # the fifth stream of seed 0
    for name in ("weight", "bias_vector"):
        draws.manual_seed(5 * 0x9E3779B9)
        expected = start[name].flatten().tolist()
        for most in (5, 10, 20, 40):
            rows = draw_subset(LABELS, most, draws)
            counts = torch.bincount(LABELS[rows], minlength=4)
            trained = _trained(start, ROWS.take(rows), counts, whole)
            for i, value in enumerate(trained[name].flatten().tolist()):
                expected[i] = (1 - share) * expected[i] + share * value
        torch.testing.assert_close(
            found[name].flatten(), torch.tensor(expected).to(found[name]), atol=1e-6, rtol=0
        )


def _trained(
    start: dict[str, torch.Tensor], rows: LabelledRows, counts: torch.Tensor, how: dict[str, Any]
) -> dict[str, torch.Tensor]:
    """Return the weights of three steps of AdamW on a whole subset, written out."""
    weight, bias = (start[n].double().clone().requires_grad_() for n in ("weight", "bias_vector"))
    groups = [{"params": [weight], "weight_decay": 0.1}, {"params": [bias], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups)
    offset = (counts.double() / counts.sum()).log()
    for step in range(how["optimisation.epochs"]):
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * (1 + torch.cos(torch.tensor(step / 3 * torch.pi)).item()) / 2
        logits = rows.features.double() @ weight.T + bias + offset
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(logits, rows.labels).backward()
        optimiser.step()
    return {"weight": weight.detach(), "bias_vector": bias.detach()}


def test_a_soup_is_trained_alike_with_and_without_validation_rows() -> None:
    method = override(METHODS["lt-soups"], {"stages.0.optimisation.epochs": 2, **BATCH})
    method = replace(method, stages=method.stages[:1])
    context = HeadContext(DIM, 4, COUNTS)
    one = fit_head(method, ROWS, context, val=ROWS)
    two = fit_head(method, ROWS, context, choose=False)
    assert torch.equal(one.head.state_dict()["weight"], two.head.state_dict()["weight"])
    assert [record["epoch"] for record in one.history] == list(range(1, 9))  # 4 subsets, 2 epochs
    assert one.residual_prior == 0.0
    plain = _fit(ROWS, COUNTS, soup=0.5, loss="cross_entropy")
    assert plain.residual_prior is None


def test_shares_and_subsets_outside_their_range_are_refused() -> None:
    for wrong in ({"soup": 1.5}, {"subsets": 0}):
        with pytest.raises(UsageError, match="is a share, 0 to 1, of at least 1"):
            override(METHODS["ce"], wrong)
