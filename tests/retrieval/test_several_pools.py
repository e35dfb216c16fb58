"""A retrieval from several pools is that from one pool which holds the rows of all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ltcache.cache import Cache
from ltcache.errors import IdentityError, UsageError
from ltcache.images import ImageStore
from ltcache.retrieval import (
    IndexRequest,
    RetrievalSettings,
    extra_rows,
    open_retrieved,
    retrieve_tail,
    write_gallery,
)
from ltcache.retrieval.result import POOL
from tests.conftest import Call
from tests.retrieval.conftest import CLASSES, World, write_cache
from tests.retrieval.looks import write_pictures

SIZES = (70, 55, 90)


def write_rows(
    world: World, cache: Cache, values: np.ndarray, rows: slice, name: str, *, half: bool
) -> Cache:
    """Write some rows as a pool; what they are called follows from their place among all."""
    numbers = range(*rows.indices(len(values)))
    columns: dict[str, list[object]] = {
        "key": [f"web/{n}.png" for n in numbers],
        "source": [f"site{n % 4}" for n in numbers],
    }
    kept = np.float16 if half else np.float32
    place = world.root / name
    return write_cache(place, values[rows], columns, encoder_of=cache.path, dtype=kept)


@pytest.fixture
def shops(world: World) -> tuple[Cache, list[Cache], Cache]:
    """Return a cache, three pools of which one is in float32, and one pool of all their rows.

    Rows are there twice and more often, also in several pools, so that scores tie.
    """
    cache = world.labelled()
    values = world.images(np.arange(sum(SIZES)) % CLASSES).astype(np.float16).astype(np.float32)
    values[70:125] += 1e-5 * world.rng.normal(size=(55, values.shape[1]))  # needs float32
    values[100:110] = values[:10]
    values[200:210] = values[:10]
    ends = np.cumsum(SIZES)
    pools = [
        write_rows(world, cache, values, slice(end - size, end), f"p{n}", half=n != 1)
        for n, (end, size) in enumerate(zip(ends, SIZES, strict=True))
    ]
    whole = write_rows(world, cache, values, slice(None), "whole", half=False)
    return cache, pools, whole


@pytest.mark.parametrize("off", [(), ("all",), ("duplicates",)], ids=str)
@pytest.mark.parametrize("index", [None, "flat"])
def test_several_pools_equal_one_to_the_bit(
    shops: tuple[Cache, list[Cache], Cache], off: tuple[str, ...], index: str | None
) -> None:
    cache, pools, whole = shops
    settings = RetrievalSettings(per_class=12, per_source=5, off=off)
    ranking = None if index is None else IndexRequest(index)
    one = retrieve_tail(cache, whole, settings=settings, ranking=ranking)
    several = retrieve_tail(cache, pools, settings=settings, ranking=ranking)
    assert several.table.drop_columns([POOL, "uri"]).equals(one.table.drop_columns(["uri"]))
    assert several.record.classes == one.record.classes
    assert several.feature_rows.tolist() == one.feature_rows.tolist()
    for name, values in one.features.items():
        np.testing.assert_array_equal(several.features[name], values)
    owner = np.repeat(["p0", "p1", "p2"], SIZES)
    rows = several.table["pool_row"].to_numpy()
    assert several.table[POOL].to_pylist() == owner[rows].tolist()
    assert several.record.pools == ("p0", "p1", "p2")
    assert POOL not in one.table.column_names and "pools" not in one.record.to_dict()


def test_it_is_read_again_and_goes_into_a_fit(
    shops: tuple[Cache, list[Cache], Cache], tmp_path: Path
) -> None:
    cache, pools, whole = shops
    settings = RetrievalSettings(per_class=12)
    found = retrieve_tail(cache, pools, tmp_path / "r", settings)
    again = open_retrieved(tmp_path / "r")
    assert again.record == found.record and again.table.equals(found.table)
    mine, plain = (
        extra_rows(result) for result in (again, retrieve_tail(cache, whole, settings=settings))
    )
    assert mine.labels.tolist() == plain.labels.tolist()
    np.testing.assert_array_equal(mine.features["embedding"], plain.features["embedding"])


def test_images_that_are_called_alike_are_told_apart(world: World) -> None:
    cache = world.labelled()
    labels = np.repeat([3, 4, 5], 4)
    values = world.images(labels)
    pools = []
    for folder in ("a", "b"):
        (world.root / folder).mkdir()
        keys: dict[str, list[object]] = {"key": [f"{n}.png" for n in range(len(values))]}
        place = world.root / folder / "web"
        pools.append(write_cache(place, values, keys, encoder_of=cache.path))
    table = retrieve_tail(cache, pools, settings=RetrievalSettings(per_class=3)).table.to_pylist()
    taken = [row for row in table if row["status"] == "accepted"]
    assert {row["pool"] for row in table} == {"web", "web (2)"}
    assert all(row["key"].startswith(f"{row['pool']}:") for row in table)
    assert len({row["key"] for row in table}) == 2 * len(values)
    twins = [row for row in table if row["reason"] == "near-pool-duplicate"]
    assert twins
    assert {row["duplicate_of"] for row in twins} <= {row["key"] for row in taken}


def test_every_pool_is_compared_with_the_cache(world: World, tmp_path: Path) -> None:
    cache = world.labelled()
    good = world.pool(cache, np.repeat([3, 4, 5], 4))
    other = World(tmp_path / "other", seed=7)
    other.root.mkdir()
    bad = other.pool(other.labelled(), np.repeat([3, 4, 5], 4), name="bad")
    with pytest.raises(IdentityError, match=str(bad.path)):
        retrieve_tail(cache, [good, bad])
    assert retrieve_tail(cache, [good, bad], allow_stale=["encoder"]).record.stale
    with pytest.raises(UsageError, match="given 2 times"):
        retrieve_tail(cache, [good, good.path])


class NamedStore(ImageStore):
    """Keeps what was asked for."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def read(self, uri: str) -> bytes:
        """Return nothing that is an image."""
        self.asked.add(uri)
        return b""


def test_the_gallery_looks_for_each_image_in_its_own_pool(
    shops: tuple[Cache, list[Cache], Cache], tmp_path: Path
) -> None:
    cache, pools, _ = shops
    result = retrieve_tail(cache, pools, tmp_path / "r", RetrievalSettings(per_class=12))
    stores = [NamedStore() for _ in pools]
    write_gallery(result, cache, pool_images=stores)
    for store, name in zip(stores, ("p0", "p1", "p2"), strict=True):
        own = {row["uri"] for row in result.table.to_pylist() if row["pool"] == name}
        assert store.asked and store.asked <= own
    with pytest.raises(ValueError):
        write_gallery(result, cache, pool_images=stores[:2])


def test_as_a_person_types_it(
    call: Call, shops: tuple[Cache, list[Cache], Cache], tmp_path: Path
) -> None:
    cache, pools, _ = shops
    out = tmp_path / "r"
    paths = [pool.path for pool in pools]
    status, text, err = call("retrieve-tail", cache.path, *paths, "--out", out, "--per-class", 5)
    assert (status, err) == (0, "")
    assert "15 images for 3 classes" in text
    status, _, err = call("review", out, cache.path, "--pool-source", tmp_path)
    assert (status, "given 1 times, for 3 pools (p0, p1, p2)" in err) == (2, True)
    photos = tmp_path / "photos"
    write_pictures(photos, max(SIZES))
    status, _, err = call("review", out, cache.path, *["--pool-source", photos] * 3)
    assert status == 0, err
    assert (out / "gallery.html").exists()
