"""Shards hold what was put in, in equal bytes for equal values."""

from __future__ import annotations

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
    commit_shard,
    lost_in_half,
    map_array,
    read_shard_record,
    stored,
    write_arrays,
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
    write_arrays(tmp_path / "empty.h5", {"embedding": np.zeros((0, 1, 4), np.float16)})
    assert map_array(tmp_path / "empty.h5", "embedding").shape == (0, 1, 4)
