"""A cache of a million rows: nothing but what is asked for is read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from ltcache.cache import Cache, open_cache
from ltcache.cache.layout import record_path, shard_path
from ltcache.cache.verify import verify_files
from ltcache.errors import CacheError
from ltcache.fit import fit_adapter
from tests.benchmarks.bench_million import Synthetic, write_synthetic

pytestmark = pytest.mark.slow
ROWS, DIM, CLASSES, TRAIN, SHARD = 1_000_000, 16, 50, 5000, 1 << 17
SHARDS = -(-ROWS // SHARD)


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("million") / "cache"
    return write_synthetic(out, ROWS, DIM, classes=CLASSES, train=TRAIN, shard_size=SHARD)


def _with_holes(cache: Path, out: Path, lost: Iterable[Path]) -> Path:
    """Return a copy in which some files have their size but hold zeros: who reads one fails."""
    lost = {cache / path for path in lost}
    for path in sorted(cache.rglob("*")):
        target = out / path.relative_to(cache)
        if path.is_dir():
            target.mkdir(parents=True)
        elif path in lost:
            target.touch()
            os.truncate(target, path.stat().st_size)
        else:
            os.link(path, target)
    return out


def _shards(numbers: Iterable[int]) -> list[Path]:
    places = (shard_path, record_path)
    return [place(Path(), "center", number) for number in numbers for place in places]


def test_opening_reads_no_row(million: Path, tmp_path: Path) -> None:
    (manifest,) = (path.relative_to(million) for path in million.glob("manifest-*.parquet"))
    lost = [manifest, *_shards(range(SHARDS))]
    (tmp_path / "cache").mkdir()
    cache = open_cache(_with_holes(million, tmp_path / "cache", lost))
    assert cache.field_dims() == {"embedding": DIM} and cache.logit_scale == 100
    with pytest.raises(CacheError, match=r"manifest-.*parquet: .*SHA-256"):
        cache.rows()


def test_counting_classes_reads_no_shard(million: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    cache = open_cache(_with_holes(million, tmp_path / "cache", _shards(range(SHARDS))))
    assert len(cache.rows()) == len(cache.manifest) == ROWS and cache.splits == ("train", "pool")
    assert cache.class_counts("train").tolist() == [TRAIN // CLASSES] * CLASSES
    with pytest.raises(CacheError, match=r"views/center/.*h5: .*SHA-256"):
        cache.features("train")


def test_fitting_a_part_reads_its_shards_alone(million: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    cache = open_cache(_with_holes(million, tmp_path / "cache", _shards(range(1, SHARDS))))
    run = fit_adapter(cache, "lift-lp", overrides={"optimisation.epochs": 2})
    features = cache.features("train")[:, 0]
    accuracy = (run.logits(features).argmax(axis=1) == cache.labels("train")).mean()
    assert len(features) == TRAIN and accuracy > 0.5
    assert np.array_equal(features, open_cache(million).row_features(np.arange(TRAIN))[:, 0])


def test_rows_from_anywhere_are_gathered(million: Path) -> None:
    rows = np.array([ROWS - 1, 3, SHARD, SHARD - 1, 3, 5 * SHARD + 17])
    found = Cache.row_features(open_cache(million), rows)
    source = Synthetic(ROWS, DIM, CLASSES)
    expected = np.concatenate([source.block(row, row + 1) for row in rows.tolist()])
    assert np.array_equal(found, expected.astype(np.float16).astype(np.float32))


def test_verifying_a_sample_reads_the_sample(million: Path, tmp_path: Path) -> None:
    others = range(1, SHARDS - 1)  # the first and the last are chosen
    (tmp_path / "cache").mkdir()
    damaged = _with_holes(million, tmp_path / "cache", _shards(others))
    report = verify_files(damaged, max_shards=2)
    assert report.ok and report.rows == ROWS and report.shards == 2 < report.all_shards == SHARDS
    found = {problem.file for problem in verify_files(damaged).problems}
    assert found == {path.as_posix() for path in _shards(others)}
    assert verify_files(million).ok
