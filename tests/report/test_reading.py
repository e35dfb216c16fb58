"""Which runs stand in one table, and which are left out of it, never without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ltcache.errors import CacheError, UnfittedWarning, UsageError
from ltcache.fit import ExtraRows, fit_adapter
from ltcache.manifest import ClassList, Manifest
from ltcache.report.reading import ReportedRuns
from ltcache.runs import Run
from tests.fakes import FakeCache

COUNTS = np.array([12, 6, 4])
SHORT = {"optimisation.epochs": 20, "optimisation.lr": 0.1}


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


def test_a_head_that_was_not_trained_to_the_end_is_told_as_it_was_when_it_was_fitted() -> None:
    cache = _cache()
    with pytest.warns(UnfittedWarning) as told:
        unfitted = fit_adapter(cache, "ce", overrides={**SHORT, "optimisation.lr": 1e-9})
    reading = _read(unfitted, fit_adapter(cache, "ncm"), cache=cache)
    assert reading.notes == [f"ce: {told[0].message}"]


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


def _divided_again(cache: Any) -> Any:
    """Exchange an image of each class between train and test: as many of each class as before."""
    rows = cache.manifest.rows
    split, label = np.array(rows["split"].to_pylist()), np.array(rows["label"].to_pylist())
    for name, other in (("train", "test"), ("test", "train")):
        moved = [np.flatnonzero((np.array(rows["split"].to_pylist()) == name) & (label == k))[0]
                 for k in range(len(cache.classes))]  # fmt: skip
        split[moved] = other
    place = rows.column_names.index("split")
    cache.manifest = Manifest(
        "fake", rows.set_column(place, "split", pa.array(split.tolist())), cache.classes
    )
    return cache


def test_a_cache_divided_again_with_equal_counts_says_nothing_of_the_runs() -> None:
    cache = _cache()
    run = _fit(cache)
    _divided_again(cache)
    with pytest.raises(CacheError, match=r"other test rows.*as many of each class.*fit them again"):
        _read(run, cache=cache).cache_of(run, Path("run"))


def test_runs_of_two_divisions_of_equal_counts_stand_in_no_table() -> None:
    before = [_fit(_cache(), seed=seed) for seed in (0, 1)]
    after = _fit(_divided_again(_cache()), seed=2)
    reading = _read(*before, after)
    assert [len(line.runs) for line in reading.lines.values()] == [2]
    (note,) = reading.notes
    assert "run-2: scored on other test rows than most of these runs, as many of each" in note


def test_more_training_rows_leave_runs_comparable() -> None:
    cache, grown = _cache(), _cache()
    rows = grown.manifest.rows
    last = rows["split"].to_pylist().index("test") - 1  # a training row that has no label yet
    labels = rows["label"].to_pylist()
    labels[last] = -1
    grown.manifest = Manifest(
        "fake", rows.set_column(rows.column_names.index("label"), "label", pa.array(labels)),
        grown.classes,
    )  # fmt: skip
    runs = _fit(grown), _fit(cache)
    reading = _read(*runs, cache=cache)
    assert len(reading.entries) == 2 and reading.notes == []
    assert runs[0].metrics["test"].rows == runs[1].metrics["test"].rows
