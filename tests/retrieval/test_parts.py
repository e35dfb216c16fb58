"""A retrieval in parts that are merged equals one pass to the bit, ties included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ltcache.cache import Cache
from ltcache.errors import CacheError, IdentityError, UsageError
from ltcache.records import read_parts
from ltcache.retrieval import (
    CachedPool,
    JoinedPool,
    RetrievalResult,
    RetrievalSettings,
    merge_retrieval,
    open_retrieved,
    retrieve_part,
    retrieve_tail,
)
from ltcache.retrieval.guards.verdicts import GUARDS
from tests.retrieval.conftest import CLASSES, World, write_cache

FEW = np.array([3, 4, 5])
_NAMES = count()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("shelf"))


@pytest.fixture(scope="module")
def cache(shelf: World) -> Cache:
    return shelf.labelled()


def tied_pool(
    world: World,
    cache: Cache,
    *,
    rows: int = 230,
    distinct: int = 60,
    dtype: type[np.floating] = np.float16,
    seed: int = 0,
) -> Cache:
    """Return a pool of images that are each there several times, far from each other."""
    rng = np.random.default_rng(seed)
    values = world.images(rng.integers(0, CLASSES, distinct)).astype(dtype)
    values[:3] = cache.features("test")[-3:, 0]  # leaks
    values[3:6] = cache.features("train")[-3:, 0]  # copies of training images
    order = rng.permutation(np.arange(rows) % distinct)
    columns: dict[str, list[object]] = {"source": [f"site{n % 3}" for n in range(rows)]}
    place = world.root / f"pool{next(_NAMES)}"
    return write_cache(place, values[order], columns, encoder_of=cache.path, dtype=dtype)


def in_parts(
    cache: Cache, pools: list[Cache], parts: int, wanted: RetrievalSettings, out: Path
) -> RetrievalResult:
    folder = out / f"parts{next(_NAMES)}"
    for number in range(parts, 0, -1):
        retrieve_part(cache, pools, f"{number}/{parts}", folder, wanted)
    return merge_retrieval([folder])


def assert_equal(one: RetrievalResult, other: RetrievalResult) -> None:
    assert one.table.equals(other.table)
    assert replace(one.record, seconds=0) == replace(other.record, seconds=0)
    assert one.key == other.key
    assert one.feature_rows.tobytes() == other.feature_rows.tobytes()
    assert one.features.keys() == other.features.keys()
    for name, values in one.features.items():
        assert values.dtype == other.features[name].dtype
        assert values.tobytes() == other.features[name].tobytes()


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.integers(1, 5),
    rows=st.sampled_from([1, 49, 120, 230]),
    distinct=st.sampled_from([7, 60]),
    dtype=st.sampled_from([np.float16, np.float32]),
    seed=st.integers(0, 99),
)
def test_merged_parts_equal_one_pass(
    shelf: World,
    cache: Cache,
    tmp_path: Path,
    parts: int,
    rows: int,
    distinct: int,
    dtype: type[np.floating],
    seed: int,
) -> None:
    pool = tied_pool(shelf, cache, rows=rows, distinct=distinct, dtype=dtype, seed=seed)
    wanted = RetrievalSettings(per_class=6, candidates=15, per_source=3)
    whole = retrieve_tail(cache, pool, settings=wanted)
    assert_equal(in_parts(cache, [pool], parts, wanted, tmp_path), whole)


@pytest.mark.parametrize("off", [(), *((guard,) for guard in GUARDS), ("all",)], ids=str)
def test_every_guard_on_and_off(
    shelf: World, cache: Cache, tmp_path: Path, off: tuple[str, ...]
) -> None:
    pools = [
        tied_pool(shelf, cache, rows=120, distinct=40, dtype=dtype, seed=seed)
        for seed, dtype in enumerate((np.float16, np.float32))
    ]
    calibrated = {"precision": 0.9, "margin": 0.1, "tau": 0.2, "mean_weight": 0.3}
    wanted = RetrievalSettings(per_class=8, per_source=2, off=off, **calibrated)
    whole = retrieve_tail(cache, pools, settings=wanted)
    assert_equal(in_parts(cache, pools, 3, wanted, tmp_path), whole)


def test_parts_are_whole_shards_and_all_rows(shelf: World, cache: Cache) -> None:
    pools = [tied_pool(shelf, cache, rows=rows) for rows in (230, 60)]  # shards of 50 rows
    joined = JoinedPool([CachedPool(pool) for pool in pools])
    for parts in range(1, 9):
        rows = [joined.part(number, parts).rows for number in range(parts)]
        assert np.concatenate(rows).tolist() == joined.rows.tolist()
        starts = {int(part[0]) for part in rows if len(part)}
        assert starts <= {0, 50, 100, 150, 200, 230, 280}
        for number in range(parts):
            part = joined.part(number, parts)
            blocks = [block for block, _ in part.blocks(7)]
            assert np.concatenate([np.zeros(0, np.int64), *blocks]).tolist() == part.rows.tolist()


def test_the_merged_result_is_written_and_parts_may_be_made_again(
    shelf: World, cache: Cache, tmp_path: Path
) -> None:
    pool = tied_pool(shelf, cache)
    files = [retrieve_part(cache, pool, f"{n}/2", tmp_path / "parts") for n in (1, 2, 2)]
    assert [file.name for file in files[:2]] == ["part-1-of-2.npz", "part-2-of-2.npz"]
    merged = merge_retrieval(files[:2], tmp_path / "r")
    again = open_retrieved(tmp_path / "r")
    assert again.record == merged.record and again.table.equals(merged.table)
    assert_equal(again, retrieve_tail(cache, pool))
    with pytest.raises(UsageError, match="no result"):
        merge_retrieval(files[:2], tmp_path / "parts")


def test_a_launcher_numbers_the_parts(
    shelf: World, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = tied_pool(shelf, cache)
    assert retrieve_part(cache, pool, "auto", tmp_path).name == "part-1-of-1.npz"
    for rank in range(2):
        with monkeypatch.context() as patch:
            patch.setenv("RANK", str(rank))
            patch.setenv("WORLD_SIZE", "2")
            found = retrieve_part(cache, pool, "auto", tmp_path / "parts")
        assert found.name == f"part-{rank + 1}-of-2.npz"
    assert_equal(merge_retrieval([tmp_path / "parts"]), retrieve_tail(cache, pool))
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
    with pytest.raises(UsageError, match="give --part 4/N"):
        retrieve_part(cache, pool, "auto", tmp_path)


@pytest.fixture(scope="module")
def made(shelf: World, cache: Cache) -> tuple[Cache, list[Path]]:
    """Return a pool and the three parts of a retrieval from it."""
    pool = tied_pool(shelf, cache)
    folder = shelf.root / "made"
    return pool, [retrieve_part(cache, pool, f"{n}/3", folder) for n in (1, 2, 3)]


def test_a_missing_or_doubled_part_is_named(
    made: tuple[Cache, list[Path]], cache: Cache, tmp_path: Path
) -> None:
    pool, (one, two, three) = made
    twin = tmp_path / "twin.npz"
    twin.write_bytes(two.read_bytes())
    other = retrieve_part(cache, pool, "2/4", tmp_path)
    (tmp_path / "empty").mkdir()
    cases: list[tuple[list[Path], str]] = [
        ([], "nothing to merge"),
        ([tmp_path / "empty"], "holds no part"),
        ([tmp_path / "nowhere"], "nowhere does not exist"),
        ([one, three], r"missing: 2; .*--part 2/3"),
        ([one, two, three, twin], rf"part 2 of 3 is there twice: {two}, {twin}"),
        ([one, other, three], rf"{other} is one of 4 parts and {one} one of 3"),
    ]
    for places, said in cases:
        with pytest.raises(UsageError, match=said):
            merge_retrieval(places)
    assert merge_retrieval([one, one.parent]).table.num_rows  # the same file, named twice


def test_parts_of_other_work_are_refused_by_file_and_field(
    made: tuple[Cache, list[Path]], shelf: World, cache: Cache, tmp_path: Path
) -> None:
    pool, (one, _, three) = made
    makers: list[tuple[str, Callable[[], Path]]] = [
        (
            r"settings.margin: expected 0.0, found 0.5",
            lambda: retrieve_part(cache, pool, "2/3", tmp_path, RetrievalSettings(margin=0.5)),
        ),
        (
            r"pool.shards",
            lambda: retrieve_part(cache, tied_pool(shelf, cache, seed=5), "2/3", tmp_path),
        ),
        (r"pool.pools", lambda: retrieve_part(cache, [pool, cache], "2/3", tmp_path)),
    ]
    for said, make in makers:
        with pytest.raises(IdentityError, match=rf"the work of {make()} differs[^;]*{said}"):
            merge_retrieval([one, tmp_path, three])


def test_what_is_damaged_foreign_or_gone_is_said(
    made: tuple[Cache, list[Path]], shelf: World, cache: Cache, tmp_path: Path
) -> None:
    _, (one, two, three) = made
    broken = tmp_path / "broken.npz"
    data = bytearray(two.read_bytes())
    data[len(data) // 2] ^= 1
    for content in (bytes(data), data[:100], b"", b"text"):
        broken.write_bytes(content)
        with pytest.raises(CacheError, match=r"broken.npz cannot be read as a part"):
            merge_retrieval([one, broken, three])
    with pytest.raises(UsageError, match="is a part of ltcache retrieve-tail, not of verify"):
        read_parts([one], "verify")
    pool = tied_pool(shelf, cache)
    gone = retrieve_part(cache, pool, "1/1", tmp_path / "gone")
    pool.path.rename(pool.path.with_name("moved"))
    with pytest.raises(CacheError, match=r"does not exist.*under the same paths"):
        merge_retrieval([gone])
    write_cache(pool.path, np.ones((9, 24)), {}, encoder_of=cache.path)
    with pytest.raises(IdentityError, match="has changed since the parts were made"):
        merge_retrieval([gone])


def test_parts_for_other_groups_of_classes_are_refused(world: World) -> None:
    cache = world.labelled()
    pool = world.pool(cache, np.repeat(np.arange(CLASSES), 20))
    folder = world.root / "parts"
    for part in ("1/2", "2/2"):
        retrieve_part(cache.path, pool.path, part, folder, RetrievalSettings(per_class=5))
    with pytest.MonkeyPatch.context() as patch:  # as if other groups had been given to the cache
        patch.setattr("ltcache.retrieval.tail_search.tail_quotas", lambda *asked: {5: 5})
        with pytest.raises(IdentityError, match=r"(?s)wanted\.3.*make them again"):
            merge_retrieval([folder])
