"""Rows in several files are the rows that one file would hold, for everyone who reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ltcache.cache import copy_cache, index_path, open_cache, row_files, verify_files
from ltcache.encoder import Encoder, load_encoder
from ltcache.errors import CacheError
from ltcache.extract import extract
from ltcache.manifest import SplitRecipe, read_manifest
from tests.extract.kill_driver import digests

SMALL = {"shard_size": 4, "batch_size": 3}
ROWS = 5  # of one file


@pytest.fixture(scope="module")
def encoder(tiny_clip: Path) -> Encoder:
    return load_encoder(f"local-dir:{tiny_clip}")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_files, "_FILE", ROWS)


@pytest.fixture
def whole(few_images: Path, encoder: Encoder, tmp_path: Path) -> Path:
    """Return a cache whose rows lie in one file."""
    return Path(extract(few_images, tmp_path / "whole", encoder=encoder, **SMALL).path)


@pytest.fixture
def parted(whole: Path, short: None, few_images: Path, encoder: Encoder, tmp_path: Path) -> Path:
    """Return the same cache with its rows in several files."""
    return Path(extract(few_images, tmp_path / "parted", encoder=encoder, **SMALL).path)


def _named(cache: Path) -> list[str]:
    return row_files.row_files(json.loads(index_path(cache).read_text()))


def _format(cache: Path) -> int:
    return int(json.loads(index_path(cache).read_text())["format"])


def test_readers_see_the_same_rows(whole: Path, parted: Path) -> None:
    one, several = open_cache(whole), open_cache(parted)
    assert len(_named(whole)) == 1 < len(_named(parted)) == -(-len(one.manifest) // ROWS)
    assert (_format(whole), _format(parted)) == (1, 2)
    assert set(_named(parted)) <= set(several.files)
    blocks = list(several.row_blocks("key", "item"))  # before all rows are held
    assert [len(block) for block in blocks[:-1]] == [ROWS] * (len(blocks) - 1)
    assert pa.concat_tables(blocks).equals(one.table("key", "item"))
    assert several.list_identity() == one.list_identity() and several.splits == one.splits
    for split in (None, *one.splits):
        assert np.array_equal(several.labels(split), one.labels(split))
        assert np.array_equal(several.features(split), one.features(split))
    assert several.manifest.rows.equals(one.manifest.rows)
    assert several.manifest.identity() == one.manifest.identity()
    assert verify_files(parted).ok


def test_everything_beside_the_rows_is_the_same_bytes(whole: Path, parted: Path) -> None:
    rest = [
        {n: d for n, d in digests(c).items() if not n.startswith(("manifest-", "cache.json"))}
        for c in (whole, parted)
    ]
    assert rest[0] == rest[1]


def test_the_index_of_one_file_is_what_it_was(whole: Path) -> None:
    index = json.loads(index_path(whole).read_text())
    assert isinstance(index["manifest"], str) and index["format"] == 1


def test_a_cache_in_one_file_is_brought_into_several_and_back(
    whole: Path, short: None, few_images: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = open_cache(whole).table("key")
    manifest = read_manifest(few_images)
    extract(manifest.head(len(manifest) - 2), whole, encoder=encoder, **SMALL)
    assert _format(whole) == 2
    monkeypatch.undo()
    extract(few_images, whole, encoder=encoder, **SMALL)
    assert _format(whole) == 1 and open_cache(whole).table("key").equals(keys)
    assert verify_files(whole).ok


def test_other_splits_are_other_files(parted: Path, few_images: Path, encoder: Encoder) -> None:
    before, named = open_cache(parted).table("key"), _named(parted)
    recipe = SplitRecipe({"test": 0.3})
    extract(few_images, parted, encoder=encoder, splitting=recipe, **SMALL)
    assert len(_named(parted)) == len(named) and set(_named(parted)) != set(named)
    cache = open_cache(parted)
    assert cache.table("key").equals(before) and "test" in cache.splits
    listed = {name for name in cache.files if name.startswith("manifest-")}
    assert listed == set(_named(parted)) and verify_files(parted).ok


def test_a_copy_has_all_of_them(parted: Path, tmp_path: Path) -> None:
    copy_cache(parted, tmp_path / "copy")
    assert open_cache(tmp_path / "copy").manifest.rows.equals(open_cache(parted).manifest.rows)


@pytest.mark.parametrize("position", [0, -1])
def test_a_damaged_file_is_named(parted: Path, position: int) -> None:
    name = _named(parted)[position]
    data = bytearray((parted / name).read_bytes())
    data[len(data) // 2] ^= 1
    (parted / name).write_bytes(data)
    with pytest.raises(CacheError, match=f"{name}.*SHA-256"):
        open_cache(parted).labels()
    assert {problem.file for problem in verify_files(parted).problems} == {name}
    (parted / name).unlink()
    with pytest.raises(CacheError, match=f"{name}: missing"):
        open_cache(parted)


def test_a_file_between_blocks_is_cut_where_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_files, "_FILE", ROWS)
    for count, cuts in ((0, []), (5, [5]), (6, [5]), (17, [3, 4, 5, 6, 16])):
        rows = pa.table({"key": [str(k) for k in range(count)]})
        written = row_files.write_rows(tmp_path, _blocks(rows, cuts))
        paths = [tmp_path / name for name in written]
        assert len(paths) == max(1, -(-count // ROWS))
        assert row_files.read_rows(paths)["key"].to_pylist() == rows["key"].to_pylist()
        assert row_files.count_rows(paths) == count
        assert [row_files.count_rows([path]) for path in paths[:-1]] == [ROWS] * (len(paths) - 1)


def _blocks(rows: pa.Table, cuts: list[int]) -> Iterator[pa.Table]:
    for start, stop in zip([0, *cuts], [*cuts, rows.num_rows], strict=True):
        yield rows.slice(start, stop - start)
