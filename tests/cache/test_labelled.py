"""Units of labelled rows: those of which nobody has said what they show. Which rows have labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ltcache.cache import labelled_digest, labelled_split
from ltcache.manifest import Manifest
from tests.fakes import FakeCache


@pytest.mark.parametrize(
    "units", [["a", "a", None, None], ["a", "a", "", ""], [1, 1, None, None], [0, 0, 2, 3]]
)
def test_a_row_without_a_unit_is_its_own(units: list[Any]) -> None:
    cache: Any = FakeCache(np.array([2, 2]), per_class=2, splits=("test",))
    column = pa.array([units[0]] * 4 + units)
    rows = cache.manifest.rows.append_column("unit", column)
    cache.manifest = Manifest("fake", rows, cache.classes)
    found = labelled_split(cache, "test").units
    assert found is not None and found[0] == found[1]
    assert len(np.unique(found)) == 3


def test_the_digest_of_labelled_rows_tells_other_rows_and_labels_not_another_order() -> None:
    cache: Any = FakeCache(np.array([2, 2]), per_class=2, splits=("test",))
    rows = cache.manifest.rows
    found = [labelled_digest(cache, "test")]
    for column, values in (
        ("split", ["test"] + ["train"] * 3 + ["train"] + ["test"] * 3),  # of equal counts
        ("label", [0, 0, 1, 1, 0, 1, 0, 1]),
        ("label", [0, 0, 1, 1, 0, 0, 1, -1]),
    ):
        place = rows.column_names.index(column)
        cache.manifest = Manifest(
            "fake", rows.set_column(place, column, pa.array(values)), cache.classes
        )
        found.append(labelled_digest(cache, "test"))
    assert len(set(found)) == 4
    turned = rows.take(pa.array(range(7, -1, -1))).set_column(0, "row_id", rows["row_id"])
    cache.manifest = Manifest("fake", turned, cache.classes)
    assert labelled_digest(cache, "test") == found[0]
