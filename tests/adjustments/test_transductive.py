"""The contract of adjustments that learn from the rows that they predict."""

from __future__ import annotations

import pytest
import torch

from ltcache.adjustments import ADJUSTMENTS, PredictedRows, adapted, is_transductive, require_alone
from ltcache.errors import FitError
from ltcache.heads import predict_logits
from tests.heads.started import disturbed, make_context, make_rows, started

FEATURES = make_rows()[0]
ROWS = PredictedRows("test", "center", lambda view: FEATURES[:, None].expand(-1, 2, -1))
TRANSDUCTIVE = sorted(name for name, kind in ADJUSTMENTS.items() if kind.transductive)


def test_a_head_that_is_not_transductive_is_returned_as_it_is() -> None:
    head = ADJUSTMENTS["posthoc"](started("linear"), make_context())
    assert adapted(head, ROWS) == (head, ()) and not is_transductive(head)
    require_alone(head)


@pytest.mark.parametrize("name", TRANSDUCTIVE)
def test_learning_leaves_the_head_and_its_state_alone(name: str) -> None:
    base = disturbed(started("experts"))
    head = ADJUSTMENTS[name](base, make_context()).eval()
    before = {key: value.clone() for key, value in head.state_dict().items()}
    ready, (found,) = adapted(head, ROWS)
    assert ready is not head and ready.base is base, "nothing is copied but the adjustment"
    assert head.state_dict().keys() == ready.state_dict().keys() == before.keys()
    assert all(torch.equal(head.state_dict()[key], value) for key, value in before.items())
    assert (found.split, found.rows) == ("test", len(FEATURES))
    assert str(len(FEATURES)) in found.words() and "transductive" in found.words()
    with pytest.raises(FitError, match=rf"no image by itself.*--method {head.instead}$"):
        head(FEATURES)


@pytest.mark.parametrize("name", TRANSDUCTIVE)
def test_what_wraps_it_is_made_ready_too_and_the_innermost_learns_first(name: str) -> None:
    inner = ADJUSTMENTS[name](disturbed(started("experts")), make_context())
    outer = ADJUSTMENTS["posthoc"](inner, make_context()).eval()
    assert is_transductive(outer)
    with pytest.raises(FitError, match="no image by itself"):
        require_alone(outer)
    ready, found = adapted(outer, ROWS)
    assert len(found) == 1
    alone = predict_logits(adapted(inner.eval(), ROWS)[0], FEATURES)
    expected = alone - outer.offset().float()
    torch.testing.assert_close(predict_logits(ready, FEATURES), expected)
    last = ADJUSTMENTS["post_ot"](inner, make_context()).eval()
    matched, both = adapted(last, ROWS)
    assert [each.adjustment for each in both] == [type(inner).__name__, "PostOptimalTransport"]
    shares = predict_logits(matched, FEATURES).softmax(dim=1).mean(dim=0)
    torch.testing.assert_close(shares, torch.full((5,), 0.2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", TRANSDUCTIVE)
def test_without_rows_nothing_is_learned(name: str) -> None:
    none = PredictedRows("val", "center", lambda view: torch.zeros(0, 2, 6))
    with pytest.raises(FitError, match="the rows that it predicts, and there are none"):
        adapted(ADJUSTMENTS[name](started("experts"), make_context()), none)


def test_rows_on_one_view_have_no_other() -> None:
    rows = PredictedRows.on_one_view("val", lambda: FEATURES[:, None])
    assert torch.equal(rows.crops(rows.view), FEATURES[:, None])
    with pytest.raises(FitError, match=r"'rrc:2'.*without that stage, and give them with -s"):
        rows.crops("rrc:2")
