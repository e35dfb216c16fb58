"""The record of a run: its JSON, and records of later versions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ltcache.errors import FitError
from ltcache.fit import ExtraRows, fit_adapter
from ltcache.runs import Run, RunRecord, open_run
from tests.fakes import FakeCache

COUNTS = np.array([30, 9, 3])
SHORT = {"optimisation.epochs": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    cache: Any = FakeCache(COUNTS)
    features = {"embedding": cache.features("test", "embedding")[-2:]}
    extra = ExtraRows(features, np.array([2, 2]), np.array([0.5, 1.0], np.float32),
                      cache.identities("center"), {"from": "a pool"})  # fmt: skip
    tuning = {"chosen": {"optimisation.lr": 0.1}, "tuned_on": "val", "trials": 2}
    options: dict[str, Any] = {"extra": extra, "tuning": tuning, "overrides": SHORT}
    options["overrides"] = {**SHORT, "feature.field": "embedding"}
    return fit_adapter(cache, "ce", tmp_path_factory.mktemp("runs") / "ce", **options)


def test_a_record_is_itself_after_a_trip_through_json(run: Run) -> None:
    plain = json.loads(json.dumps(run.record.to_dict()))
    assert RunRecord.from_dict(plain) == run.record
    assert run.path is not None and open_run(run.path).record == run.record
    assert plain["group_scheme"] == "many n>100, medium 20<=n<=100, few n<20"
    assert plain["effective_counts"] == [30.0, 9.0, 4.5] and plain["extra"]["from"] == "a pool"
    assert plain["tuned_on"] == {"epoch": "val", "optimisation.lr": "val"}


def test_extra_rows_are_part_of_the_key(run: Run) -> None:
    assert run.record.extra is not None and run.path is not None
    assert json.loads((run.path / "run.json").read_text())["key"] == run.key
    plain = fit_adapter(FakeCache(COUNTS), run.method)  # type: ignore[arg-type]
    assert plain.record.identities == run.record.identities and plain.key != run.key
    assert {"extra", "effective_counts", "tuning"}.isdisjoint(plain.record.to_dict())


def test_the_rows_are_part_of_the_key_where_they_are_recorded(run: Run) -> None:
    plain = fit_adapter(FakeCache(COUNTS), run.method)  # type: ignore[arg-type]
    other: Any = FakeCache(COUNTS)
    keys = pa.array([f"other/{key}" for key in other.manifest.rows["key"].to_pylist()])
    place = other.manifest.rows.column_names.index("key")
    other.manifest = replace(
        other.manifest, rows=other.manifest.rows.set_column(place, "key", keys)
    )
    assert fit_adapter(other, run.method).key != plain.key
    plain.record = replace(plain.record, rows=None)  # of an earlier version
    assert "rows" not in plain.record.to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "run.json is of format 2, .* upgrade"),
        ({"calibration": 1.5}, "run.json has calibration, .* a later version wrote it"),
        ({"cost": {"minutes": 1}}, "minutes"),
    ],
)
def test_what_a_later_version_wrote_is_refused(
    run: Run, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    run.save(tmp_path / "run")
    place = tmp_path / "run" / "run.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | change))
    with pytest.raises(FitError, match=message):
        open_run(tmp_path / "run")
