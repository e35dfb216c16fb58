"""The order of scores on validation rows."""

from __future__ import annotations

import numpy as np
import pytest

from ltcache.metrics import is_better, last_alike, validation_rank


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


def _epochs(*scores: float) -> list[dict[str, float]]:
    return [
        {"epoch": k, "val_mean_per_class": score, "val_nll": 1.0}
        for k, score in enumerate(scores, 1)
    ]


@pytest.mark.parametrize(
    ("counts", "scores", "epoch"),
    [
        ([1] * 60, (0.2, 0.87, 0.85, 0.85), 4),  # one image of sixty more
        ([1] * 60, (0.2, 0.87, 0.85, 0.70), 3),  # ten fewer
        ([10_000] * 60, (0.2, 0.87, 0.85, 0.85), 2),  # of many images that is no chance
        ([10_000] * 60, (0.2, 0.87, 0.87, 0.86), 3),
        ([1] * 60, (1.0, 0.99, 0.9), 2),  # all of sixty right does not mean all that there are
        ([3], (0.5,), 1),
        ([0, 4, 0, 4], (0.9, 0.6, 0.0), 1),  # classes without images do not count
    ],
)
def test_the_last_epoch_that_cannot_be_told_from_the_best(
    counts: list[int], scores: tuple[float, ...], epoch: int
) -> None:
    assert last_alike(_epochs(*scores), np.array(counts))["epoch"] == epoch


def test_a_rare_class_with_few_images_makes_a_mean_per_class_unsure() -> None:
    records = _epochs(0.87, 0.85)
    assert last_alike(records, np.array([3000] * 10))["epoch"] == 1
    assert last_alike(records, np.array([3000] * 5 + [2] * 5))["epoch"] == 2
