"""Units of labelled rows: those of which nobody has said what they show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ltcache.cache import labelled_split
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
