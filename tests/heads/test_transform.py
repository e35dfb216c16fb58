"""Statistics of training rows: a row counts what it weighs."""

from __future__ import annotations

import pytest
import torch

from ltcache.heads import FeatureTransform


@pytest.mark.parametrize("kind", ["standardize", "center_l2"])
def test_a_row_counts_as_many_times_as_it_weighs(kind: str) -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(20, 6, generator=draw) * torch.arange(1.0, 7) + 3
    times = torch.randint(0, 4, (20,), generator=draw)
    weighted = FeatureTransform(kind, 6).fit(rows, times.float() / 7)
    repeated = FeatureTransform(kind, 6).fit(rows.repeat_interleave(times, dim=0))
    torch.testing.assert_close(weighted(rows), repeated(rows))
    equal = FeatureTransform(kind, 6).fit(rows, torch.full((20,), 0.5))
    torch.testing.assert_close(equal(rows), FeatureTransform(kind, 6).fit(rows)(rows))
    assert not torch.allclose(weighted(rows), equal(rows))
