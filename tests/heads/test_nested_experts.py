"""Experts on nested sets of classes: their mean against plain loops, and its limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ltcache.heads import HEADS, ExpertsHead, HeadContext, NestedExpertsHead, class_reach
from tests.heads.started import CLASSES, disturbed, make_context, make_rows, started

GROUPS = {"many_above": 4, "few_below": 2}  # of counts 9, 5, 3, 2, 1
REACH = [1, 1, 2, 2, 3]


def _head(**options: Any) -> NestedExpertsHead:
    head = disturbed(started("nested_experts", **{**GROUPS, **options})).double()
    assert isinstance(head, NestedExpertsHead)
    return head


def test_reach_follows_from_the_counts_at_the_bounds() -> None:
    counts = torch.tensor([101, 100, 20, 19, 0])
    assert class_reach(counts, 100, 20).tolist() == [1, 2, 2, 3, 3]
    assert _head().reach.tolist() == REACH


def test_logits_are_those_of_the_formula() -> None:
    head, rows = _head(), make_rows(dtype=torch.float64)[0]
    z = head.classify(head.represent(rows)).detach().numpy()
    lengths = np.linalg.norm(head.weight.detach().numpy(), axis=2)
    factor = []
    for e in range(3):
        own = [c for c in range(CLASSES) if REACH[c] > e]
        factor.append(np.mean([lengths[0, c] for c in own]) / np.mean([lengths[e, c] for c in own]))
    wanted = np.zeros((len(rows), CLASSES))
    for n in range(len(rows)):
        for c in range(CLASSES):
            responsible = range(REACH[c])
            wanted[n, c] = np.mean([factor[e] * z[e, n, c] for e in responsible])
    assert factor[0] == 1.0 and factor[1] != 1.0
    np.testing.assert_allclose(head(rows).detach().numpy(), wanted, rtol=1e-12)


def test_an_expert_of_longer_weights_counts_no_more() -> None:
    head, rows = _head(), make_rows(dtype=torch.float64)[0]
    before = head(rows)
    with torch.no_grad():
        head.weight[2] *= 7
        head.bias_vector.view(3, -1)[2] *= 7
    torch.testing.assert_close(head(rows), before)
    head.rescale = False
    assert not torch.allclose(head(rows), before)


def test_where_all_classes_are_few_it_is_the_mean_of_all_experts() -> None:
    head = _head(many_above=100, few_below=20, rescale=False)
    rows = make_rows(dtype=torch.float64)[0]
    plain = ExpertsHead(make_context(), experts=3).double()
    plain.load_state_dict({n: v for n, v in head.state_dict().items() if n != "reach"})
    torch.testing.assert_close(head(rows), plain(rows))


def test_where_all_classes_are_many_the_first_expert_stands_alone() -> None:
    head, rows = _head(many_above=0, few_below=0), make_rows(dtype=torch.float64)[0]
    assert head.factors().tolist() == [1.0, 1.0, 1.0], "experts without classes"
    torch.testing.assert_close(head(rows), head.classify(head.represent(rows))[0])


def test_a_rebuilt_head_has_the_groups_it_was_fitted_with() -> None:
    head = _head()
    other = HeadContext(head.dim, CLASSES, torch.ones(CLASSES))
    again = HEADS["nested_experts"](other, **head.config()).double()
    again.load_state_dict(head.state_dict())
    assert again.reach.tolist() == REACH
