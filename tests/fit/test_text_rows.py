"""Class texts among the training rows: one of each class, or a share of its rows."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
from torch.nn import functional as F

from ltcache.errors import UsageError
from ltcache.fit import FitOptions, LabelledRows
from ltcache.fit.head import OneFit, with_texts
from ltcache.heads import HeadContext
from ltcache.methods import METHODS, FeatureSpec, Method, override
from ltcache.sampling import SAMPLERS, RowsByClass

COUNTS = torch.tensor([60, 9, 1])
TEXTS = F.normalize(torch.eye(3, 4) + 0.1, dim=1)
CONTEXT = HeadContext(4, 3, COUNTS, text_features=TEXTS, logit_scale=20.0)
LABELS = torch.repeat_interleave(torch.arange(3), COUNTS)
ROWS = LabelledRows(torch.zeros(70, 4), LABELS, torch.full((70,), 0.5), images=torch.arange(70))


def texts_of_class(rows: LabelledRows) -> list[int]:
    texts = rows.features.any(dim=1)
    torch.testing.assert_close(rows.features[texts], TEXTS[rows.labels[texts]])
    return torch.bincount(rows.labels[texts], minlength=3).tolist()


def test_half_of_the_rows_of_every_class_are_its_text() -> None:
    rows = with_texts(ROWS, CONTEXT, 0.5)
    assert len(rows) == 140 and texts_of_class(rows) == COUNTS.tolist()
    assert rows.weights is not None and rows.weights[70:].tolist() == [1.0] * 70
    assert rows.images is not None and len(rows.images.unique()) == 140


@pytest.mark.parametrize(("share", "expected"), [(0.0, [1, 1, 1]), (0.25, [20, 3, 1])])
def test_a_text_is_a_row_at_least_once(share: float, expected: list[int]) -> None:
    assert texts_of_class(with_texts(ROWS, CONTEXT, share)) == expected


@pytest.mark.parametrize("sampler", ["class_aware", "class_balanced", "instance"])
def test_half_of_what_is_drawn_is_text(sampler: str) -> None:
    rows = with_texts(ROWS, CONTEXT, 0.5)
    by_class, generator = RowsByClass.of(rows.labels, 3), torch.Generator().manual_seed(0)
    drawn = torch.cat([SAMPLERS[sampler].draw(by_class, generator) for _ in range(100)])
    is_text = rows.features.any(dim=1)[drawn].double()
    for label in range(3):
        assert float(is_text[rows.labels[drawn] == label].mean()) == pytest.approx(0.5, abs=0.03)


def test_cross_modal_counts_the_texts_that_it_trains_on() -> None:
    for settings, expected in (({}, 2 * COUNTS), ({"feature.text_share": 0}, COUNTS + 1)):
        method = override(METHODS["cross-modal"], settings)
        _, task = OneFit(method, CONTEXT, 0, FitOptions()).start(ROWS, None)
        assert torch.equal(task.context.class_counts, expected)
        assert torch.equal(torch.bincount(task.rows.labels), expected)


def test_a_share_is_kept_in_records_and_its_absence_is_none() -> None:
    method = METHODS["cross-modal"]
    assert method.to_dict()["feature"]["text_share"] == 0.5
    assert Method.from_dict(method.to_dict()) == method
    before = replace(method, feature=replace(method.feature, text_share=0.0))
    assert "text_share" not in before.to_dict()["feature"]
    assert Method.from_dict(before.to_dict()) == before
    assert asdict(FeatureSpec())["text_share"] == 0.0


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_leaves_no_images_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match=r"feature.text_share=.* 0 <= share < 1"):
        override(METHODS["cross-modal"], {"feature.text_share": share})
