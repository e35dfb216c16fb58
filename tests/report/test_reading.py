"""Which runs stand in one table, and which are left out of it, never without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ltcache.errors import CacheError, UsageError
from ltcache.fit import ExtraRows, fit_adapter
from ltcache.manifest import ClassList, Manifest
from ltcache.report.reading import ReportedRuns
from ltcache.runs import Run
from tests.fakes import FakeCache

COUNTS = np.array([12, 6, 4])
SHORT = {"optimisation.epochs": 2}


def _cache(**options: Any) -> Any:
    return FakeCache(COUNTS, per_class=4, splits=("test",), **options)


def _fit(cache: Any, **options: Any) -> Run:
    return fit_adapter(cache, "ce", overrides=SHORT, **options)


def _read(*runs: Run, cache: Any = None) -> ReportedRuns:
    reading = ReportedRuns(cache)
    for number, run in enumerate(runs):
        reading.add(run, Path(f"run-{number}"), run.method.name, {})
    reading.require_comparable()
    return reading


def test_a_run_with_extra_rows_is_a_line_of_its_own() -> None:
    cache = _cache()
    extra = ExtraRows(
        {name: cache.features("train", name)[:3] for name in ("embedding", "pooled")},
        np.array([2, 2, 2]),
        np.ones(3, np.float32),
        {kind: cache.identities()[kind] for kind in ("encoder", "classes")},
    )
    reading = _read(_fit(cache), _fit(cache, extra=extra), cache=cache)
    assert len(reading.entries) == 2 and reading.notes == []


def test_another_run_of_the_same_seed_is_left_out_aloud() -> None:
    one, two = _cache(), _cache()
    rows = two.manifest.rows
    keys = pa.array([f"other/{key}" for key in rows["key"].to_pylist()])
    two.manifest = Manifest(
        "fake", rows.set_column(rows.column_names.index("key"), "key", keys), two.classes
    )
    runs = _fit(one), _fit(one), _fit(two)
    reading = _read(*runs)
    assert [len(line.runs) for line in reading.lines.values()] == [1]
    (note,) = reading.notes
    assert "run-2: of the same method and seed as run-0, on other rows" in note
    named = ReportedRuns(named={Path("run-1")})
    named.add(runs[0], Path("run-0"), "ce", {})
    with pytest.raises(UsageError, match="report them apart"):
        named.add(runs[2], Path("run-1"), "ce", {})


def test_runs_of_other_classes_are_not_compared() -> None:
    one, two = _cache(), _cache()
    names = ClassList(tuple(reversed(two.classes.names)))
    two.manifest, two.classes = Manifest("fake", two.manifest.rows, names), names
    reading = _read(_fit(one), _fit(one, seed=1), _fit(two))
    assert sum(len(line.runs) for line in reading.lines.values()) == 2
    assert "of other classes" in reading.notes[0]


def test_a_cache_whose_rows_have_changed_says_nothing_of_the_runs() -> None:
    cache = _cache()
    run = _fit(cache)
    rows = cache.manifest.rows
    labels = pa.array([*rows["label"].to_pylist()[:-1], -1])
    cache.manifest = Manifest(
        "fake", rows.set_column(rows.column_names.index("label"), "label", labels), cache.classes
    )
    with pytest.raises(CacheError, match=r"other test rows \(11\).*scored on \(12\)"):
        _read(run, cache=cache).cache_of(run, Path("run"))
