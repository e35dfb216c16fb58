"""The benchmark of long lists runs, at a size at which its numbers mean nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltcache.cache import open_cache
from ltcache.extract import extraction
from tests.benchmarks.bench_long_list import STEPS, run_step


def test_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "SHARD_SIZE", 64)
    for step in STEPS:
        assert set(run_step(step, tmp_path, 300)) == {"seconds", "added", "resident"}
    cache = open_cache(tmp_path / "cache")
    assert len(cache.shards()) == 5 and len(set(cache.column("sha256").tolist())) == 64
