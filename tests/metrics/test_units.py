"""The unit of a row: its own where nobody has said one, in whatever a caller keeps them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ltcache.metrics import evaluate_logits, named_units, paired_bootstrap


def groups_of(units: Any) -> list[list[int]]:
    """Return which rows are one unit."""
    _, ids = np.unique(named_units(units), return_inverse=True)
    return sorted(np.flatnonzero(ids == unit).tolist() for unit in set(ids.tolist()))


@pytest.mark.parametrize(
    "units",
    [
        ["a", "a", None, None],
        ["a", "a", np.nan, np.nan],
        ["a", "a", "", ""],
        [7, 7, None, None],
        np.array([1.0, 1.0, np.nan, np.nan]),
        np.array(["a", "a", None, np.nan], object),
        pd.Series(["a", "a", pd.NA, None], dtype="string"),
        pd.Series(["a", "a", pd.NA, None]),
        ["a", "a", 1, 2],
        [1, 1, 2, 3],
        torch.tensor([1, 1, 2, 3]),
    ],
)
def test_a_row_without_a_unit_is_its_own(units: Any) -> None:
    assert groups_of(units) == [[0, 1], [2], [3]]
    logits, labels = np.eye(2)[[0, 0, 0, 1]], np.zeros(4, int)
    assert evaluate_logits(logits, labels, [1, 1], units=units).num_units == 3
    right = [True, True, True, False]
    assert paired_bootstrap(right, right, labels, units).units == 3


def test_no_row_has_a_unit() -> None:
    assert groups_of([None] * 3) == [[0], [1], [2]]
    assert named_units([None, "a"], numbers=[4, 9]).tolist() == ["row 4", "unit a"]


@pytest.mark.parametrize("units", [[[1, 2], [3, 4]], "a", [(1, 2)] * 4])
def test_units_are_one_value_a_row(units: Any) -> None:
    with pytest.raises(ValueError, match="one value a row"):
        named_units(units)
