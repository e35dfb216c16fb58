"""Shards hold what was put in, in equal bytes for equal values."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ltcache.cache.layout import record_path, shard_path
from ltcache.cache.shards import (
    array_file,
    commit_shard,
    lost_in_half,
    map_array,
    read_shard_record,
    stored,
)
from ltcache.errors import CacheError


def record(count: int) -> dict[str, Any]:
    return {
        "first": 0,
        "count": count,
        "micro_batch": 4,
        "content": ["c"] * count,
        "width": [1] * count,
        "height": [2] * count,
        "errors": {1: "broken"},
    }


@given(arrays.arrays(np.float32, (3, 1, 5), elements=st.floats(-1e6, 1e6, width=32)))
def test_float16_unless_a_value_does_not_fit(values: np.ndarray) -> None:
    kept = stored(values)
    if kept.dtype == np.float16:
        assert (np.abs(kept - values) <= np.abs(values) * 2.0**-11 + 2.0**-25).all()
        assert (length(kept - values) <= 2.0**-10 * length(values)).all()
    else:
        assert np.array_equal(kept, values)
        assert lost_in_half(values).any()


def length(rows: np.ndarray) -> np.ndarray:
    return np.linalg.norm(rows.astype(np.float64), axis=-1)


@pytest.mark.parametrize(
    ("scale", "kind"),
    [
        (1.0, np.float16),
        (1e-3, np.float16),
        (1e-6, np.float32),
        (1e-9, np.float32),
        (1e-30, np.float32),
        (0.0, np.float16),
        (7e4, np.float32),
        (1e30, np.float32),
    ],
)
def test_short_and_long_rows_are_kept_in_float32(scale: float, kind: type) -> None:
    rows = np.random.default_rng(0).normal(size=(5, 2, 64)).astype(np.float32)
    rows[3, 1] *= np.float32(scale / np.abs(rows[3, 1]).max())
    kept = stored(rows)
    assert kept.dtype == kind
    assert (length(kept.astype(np.float32) - rows) <= 2.0**-10 * length(rows)).all()
    lost = np.zeros((5, 2), bool)
    lost[3, 1] = kind is np.float32
    assert np.array_equal(lost_in_half(rows), lost)


def test_small_values_of_a_long_row_may_become_zero() -> None:
    rows = np.full((1, 1, 512), 1e-9, np.float32)
    rows[0, 0, 0] = 1
    assert stored(rows).dtype == np.float16


def test_failed_rows_stay_nan_in_float16() -> None:
    values = np.array([[1.0], [np.nan]], np.float32)
    assert stored(values).dtype == np.float16
    assert np.isnan(stored(values)[1]).all()


def test_equal_values_give_equal_bytes_and_map_back(tmp_path: Path) -> None:
    features = {
        "embedding": np.random.default_rng(0).normal(size=(7, 1, 4)).astype(np.float32),
        "pooled": np.ones((7, 1, 2), np.float32) * 1e6,
    }
    first = commit_shard(tmp_path, "center", 0, features, **record(7))
    again = commit_shard(tmp_path, "center", 1, dict(reversed(features.items())), **record(7))
    assert first.sha256 == again.sha256
    assert read_shard_record(tmp_path, "center", 0) == first
    mapped = map_array(shard_path(tmp_path, "center", 0), "embedding")
    assert np.array_equal(mapped, features["embedding"].astype(np.float16))
    pooled = map_array(shard_path(tmp_path, "center", 0), "pooled")
    assert np.array_equal(pooled, features["pooled"])


def filled(value: float) -> dict[str, np.ndarray]:
    return {"embedding": np.full((2, 1, 3), value, np.float32)}


def committed_files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_first_record_wins(tmp_path: Path) -> None:
    first = commit_shard(tmp_path, "center", 0, filled(1), **record(2))
    assert first is not None
    before = committed_files(tmp_path)
    assert commit_shard(tmp_path, "center", 0, filled(2), **record(2)) is None
    assert commit_shard(tmp_path, "center", 0, filled(1), **record(2)) is None
    assert committed_files(tmp_path) == before
    assert set(before) == {"00000.h5", "00000.json"}
    assert read_shard_record(tmp_path, "center", 0) == first


@pytest.mark.parametrize("call", ["link", "replace"])
@pytest.mark.parametrize("theirs", [1.0, 2.0], ids=["the same", "other features"])
def test_a_process_that_others_overtake_in_its_commit_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, theirs: float
) -> None:
    """Others commit the shard right before each step of a commit; the cache is whole after it."""
    original, steps = getattr(os, call), 3
    for step in range(steps):
        cache, count, seen = tmp_path / str(step), [0], {}

        def overtaken(
            *names: Any, cache: Path = cache, count: list = count, seen: dict = seen,
            step: int = step,
        ) -> Any:  # fmt: skip
            count[0] += 1
            if count[0] == step + 1:
                commit_shard(cache, "center", 0, filled(theirs), **record(2))
                seen.update(committed_files(cache))
            return original(*names)

        monkeypatch.setattr(os, call, overtaken)
        commit_shard(cache, "center", 0, filled(1), **record(2))
        monkeypatch.undo()
        found = read_shard_record(cache, "center", 0)
        data = shard_path(cache, "center", 0).read_bytes()
        assert found is not None and found.sha256 == hashlib.sha256(data).hexdigest()
        assert set(committed_files(cache)) == {"00000.h5", "00000.json"}
        for name in ("00000.h5", "00000.json") if seen else ():
            assert committed_files(cache)[name] == seen[name]


def test_a_kill_between_record_and_features_is_mended_by_the_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = shard_path(tmp_path, "center", 0)
    orphan.parent.mkdir(parents=True)
    commit_shard(tmp_path, "other", 0, filled(2), **record(2))
    shutil.copy(shard_path(tmp_path, "other", 0), orphan)  # features that have no record
    replace = os.replace

    def killed(source: Any, target: Any) -> None:
        if Path(target) == orphan:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        commit_shard(tmp_path, "center", 0, filled(1), **record(2))
    monkeypatch.undo()
    assert read_shard_record(tmp_path, "center", 0) is not None
    assert (map_array(orphan, "embedding") == 1).all()
    assert set(committed_files(tmp_path / "views/center")) == {"00000.h5", "00000.json"}


def test_a_record_whose_features_are_lost_gives_way(tmp_path: Path) -> None:
    commit_shard(tmp_path, "center", 0, filled(1), **record(2))
    shard_path(tmp_path, "center", 0).unlink()
    again = commit_shard(tmp_path, "center", 0, filled(2), **record(2))
    assert again is not None and read_shard_record(tmp_path, "center", 0) == again


def test_no_record_no_shard(tmp_path: Path) -> None:
    assert read_shard_record(tmp_path, "center", 0) is None
    commit_shard(tmp_path, "center", 0, {"embedding": np.ones((2, 1, 3), np.float32)}, **record(2))
    record_path(tmp_path, "center", 0).unlink()
    assert read_shard_record(tmp_path, "center", 0) is None


def test_a_record_without_its_whole_shard_counts_for_nothing(tmp_path: Path) -> None:
    commit_shard(tmp_path, "center", 0, {"embedding": np.ones((2, 1, 3), np.float32)}, **record(2))
    path = shard_path(tmp_path, "center", 0)
    path.write_bytes(path.read_bytes()[:-1])
    assert read_shard_record(tmp_path, "center", 0) is None


def test_damage_is_a_cache_error(tmp_path: Path) -> None:
    commit_shard(tmp_path, "center", 0, {"embedding": np.ones((2, 1, 3), np.float32)}, **record(2))
    path = shard_path(tmp_path, "center", 0)
    with pytest.raises(CacheError, match="tokens"):
        map_array(path, "tokens")
    record_path(tmp_path, "center", 0).write_text('{"first": 0}')
    with pytest.raises(CacheError, match="not a shard record"):
        read_shard_record(tmp_path, "center", 0)
    path.write_bytes(b"no HDF5")
    with pytest.raises(CacheError, match=str(path)):
        map_array(path, "embedding")
    with h5py.File(path, "w") as file:
        file.create_dataset("embedding", data=np.ones((4, 4)), chunks=(2, 2))
    with pytest.raises(CacheError, match="not contiguous"):
        map_array(path, "embedding")


def test_empty_arrays_map(tmp_path: Path) -> None:
    (tmp_path / "empty.h5").write_bytes(array_file({"embedding": np.zeros((0, 1, 4), np.float16)}))
    assert map_array(tmp_path / "empty.h5", "embedding").shape == (0, 1, 4)
