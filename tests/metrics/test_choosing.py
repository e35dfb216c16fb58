"""The order of scores on validation rows."""

from __future__ import annotations

import pytest

from ltcache.metrics import is_better, validation_rank


def _scores(mean: float, nll: float, overall: float = 0.5) -> dict[str, float]:
    return {"val_mean_per_class": mean, "val_nll": nll, "val_overall": overall}


@pytest.mark.parametrize(
    ("scores", "best", "expected"),
    [
        (_scores(0.1, 9.0), None, True),
        (_scores(0.6, 9.0, 0.1), _scores(0.5, 0.1, 0.9), True),
        (_scores(0.5, 1.0), _scores(0.5, 1.1), True),
        (_scores(0.5, 1.0), _scores(0.5, 1.0), False),
        (_scores(0.4, 0.1), _scores(0.5, 9.0), False),
    ],
)
def test_mean_per_class_decides_then_nll_and_equal_ones_stay(
    scores: dict[str, float], best: dict[str, float] | None, expected: bool
) -> None:
    assert is_better(scores, best) is expected


def test_names_without_a_prefix() -> None:
    assert validation_rank({"mean_per_class": 0.5, "nll": 2.0}, prefix="") == (0.5, -2.0)
