"""Lists whose columns of texts outgrow 32-bit offsets: they are extracted and grow like others.

The limit is lowered to nothing: a real one takes 33.5 million rows, of which
``tests/benchmarks/bench_finalise.py`` makes a cache by hand.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ltcache.cache import index, index_path, open_cache, read_plan, reader, row_files
from ltcache.cache.verify import verify_files
from ltcache.encoder import Encoder, load_encoder
from ltcache.errors import CacheError
from ltcache.extract import extract, extraction
from ltcache.extract.report import make_report
from ltcache.manifest import ClassList, Manifest, long_texts, place_among, read_manifest, write_list
from ltcache.manifest.tables import TAKEN
from tests.extract.kill_driver import digests

SMALL = {"shard_size": 4, "batch_size": 3}
LISTED = ("key", "uri", "label", "split")


@pytest.fixture(scope="module")
def encoder(tiny_clip: Path) -> Encoder:
    return load_encoder(f"local-dir:{tiny_clip}")


def _rows(folder: Path, order: list[int]) -> str:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    lines = [
        f"{names[k]},{'fox' if k % 2 else 'jay'},{'val' if k % 5 == 0 else 'train'}" for k in order
    ]
    return "\n".join(["path,label,split", *lines, ""])


def _extracted(folder: Path, place: Path, encoder: Encoder) -> Path:
    """Extract a list, then a longer one in another order."""
    place.mkdir()
    count, out = len(list(folder.rglob("*.png"))), place / "cache"
    order = np.random.default_rng(0).permutation(count).tolist()
    for number, rows in enumerate((order[: count // 2], order[::-1])):
        listed = place / f"list-{number}.csv"
        listed.write_text(_rows(folder, rows))
        extract(read_manifest(listed, root=folder), out, encoder=encoder, **SMALL)
    return out


def test_long_texts_make_the_same_cache(
    few_images: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = open_cache(_extracted(few_images, tmp_path / "plain", encoder))
    assert plain.manifest.rows.schema.field("sha256").type == pa.string()
    monkeypatch.setattr(long_texts, "LONG", 0)
    out = _extracted(few_images, tmp_path / "long", encoder)
    long = open_cache(out)
    assert long.manifest.rows.schema.field("sha256").type == pa.large_string()
    for name in TAKEN:
        assert long.column(name) is not None
        assert long.manifest.rows[name].to_pylist() == plain.manifest.rows[name].to_pylist(), name
    assert np.array_equal(long.features(), plain.features())
    assert long.manifest.identity() == plain.manifest.identity() and verify_files(out).ok
    shards = [
        {n: d for n, d in digests(c.path).items() if n.startswith("views")} for c in (long, plain)
    ]
    assert shards[0] == shards[1]


def test_rows_written_in_blocks_are_the_same_file(
    few_images: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = digests(_extracted(few_images, tmp_path / "whole", encoder))
    monkeypatch.setattr(row_files, "_ROW_GROUP", 4)
    grouped = open_cache(_extracted(few_images, tmp_path / "grouped", encoder))
    monkeypatch.setattr(index, "_BLOCK", 4)
    blocks = _extracted(few_images, tmp_path / "blocks", encoder)
    assert digests(blocks) == digests(grouped.path) and set(digests(blocks)) != set(whole)
    assert grouped.manifest.rows.equals(open_cache(tmp_path / "whole" / "cache").manifest.rows)


def test_a_mapped_list_makes_the_same_cache(
    few_images: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_BLOCK", 4)
    (tmp_path / "list.csv").write_text(_rows(few_images, [5, 3, 8, 0, 1, 7]))
    read = read_manifest(tmp_path / "list.csv", root=few_images)
    report = extract(read, tmp_path / "read", encoder=encoder, **SMALL)
    write_list(read, tmp_path / "list.arrow")
    monkeypatch.setattr(row_files, "_BLOCK", 4)
    mapped = extract(tmp_path / "list.arrow", tmp_path / "mapped", encoder=encoder, **SMALL)
    assert digests(tmp_path / "mapped") == digests(tmp_path / "read")
    assert (mapped.rows, mapped.items, mapped.failed) == (report.rows, report.items, 0) == (6, 6, 0)


def test_a_finished_cache_is_reported_by_blocks(
    few_images: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = list(range(9))
    (tmp_path / "list.csv").write_text(_rows(few_images, order).replace(",val", ",train"))
    manifest = read_manifest(tmp_path / "list.csv", root=few_images)
    out = extract(manifest, tmp_path / "cache", encoder=encoder, **SMALL).path
    monkeypatch.setattr(row_files, "_BLOCK", 2)
    monkeypatch.setattr(reader, "read_rows", None)  # that would hold them all
    cache = open_cache(Path(out))
    blocks = list(cache.row_blocks("key", "label"))
    assert [len(block) for block in blocks] == [2, 2, 2, 2, 1]
    assert cache.list_identity() == manifest.identity() and cache.splits == ("train",)
    report = make_report(cache, 0, "reused", 0.0)
    assert (report.rows, report.items, report.failures, report.shared) == (9, 9, (), ())
    with pytest.raises(CacheError, match="no column 'absent'"):
        next(cache.row_blocks("absent"))


def test_of_many_shards_some_are_looked_at(
    few_images: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_LOOKED_AT", 3)
    out = Path(extract(few_images, tmp_path / "cache", encoder=encoder, shard_size=1).path)
    looked: list[Path] = []
    stat = Path.stat
    monkeypatch.setattr(
        Path, "stat", lambda self, **how: (looked.append(self), stat(self, **how))[1]
    )
    cache = open_cache(out)
    names = {path.name for path in looked if path.parent.name == "center"}
    assert 0 < len(names) <= 3 < len(cache.shards())
    data = sorted((out / "views" / "center").glob("*.h5"))
    cut = next(path for path in data if path.name not in names)
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.raises(CacheError, match=f"{cut.name}: .* the index says"):
        open_cache(out).features()
    cut.unlink()
    with pytest.raises(CacheError, match=f"{cut.name}: missing"):
        open_cache(out)


def test_a_hundred_million_rows_are_opened_by_fewer_than_a_hundred_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = range(-(-100_000_000 // extraction.shard_size_for(100_000_000)))
    views = {
        f"views/center/{number:05d}.{kind}": {"bytes": 1, "sha256": ""}
        for number in shards
        for kind in ("h5", "json")
    }
    rows = range(-(-100_000_000 // row_files._FILE))
    others = {f"manifest-{k}.parquet": {"bytes": 1, "sha256": ""} for k in rows}
    looked: list[Path] = []
    monkeypatch.setattr(index, "_names", lambda _: [name.rpartition("/")[2] for name in views])
    monkeypatch.setattr(index, "_size", lambda path: (looked.append(path), 1)[1])
    index.check_file_sizes(tmp_path, {**others, **views})
    assert len(looked) == len(set(looked)) < 80 and len(views) > 24_000
    last = max(views)
    monkeypatch.setattr(
        index, "_names", lambda _: [n.rpartition("/")[2] for n in views if n < last]
    )
    monkeypatch.setattr(index, "_size", lambda path: None if path.name in last else 1)
    with pytest.raises(CacheError, match=f"{last}: missing"):
        index.check_file_sizes(tmp_path, {**others, **views})


def test_known_long_texts_are_never_narrowed() -> None:
    known = pa.array(["b", "a", "a"], pa.large_string())
    assert place_among(pa.array(["a", "c"]), known).to_pylist() == [1, None]
    assert place_among(pa.chunked_array([["b"], ["a"]]), pa.array(["a"])).to_pylist() == [None, 0]


def test_rows_of_long_texts_are_a_manifest() -> None:
    numbers = pa.array([0, 1])
    texts = pa.array(["a", "b"], pa.large_string())
    columns = {"row_id": numbers, "key": texts, "uri": texts, "label": numbers, "split": texts}
    assert len(Manifest("long", pa.table(columns), ClassList(("fox", "jay")))) == 2


@pytest.mark.parametrize(
    ("images", "size"),
    [(0, 1024), (4 << 20, 1024), ((4 << 20) + 1, 2048), (10_000_000, 4096), (100_000_000, 8192)],
)
def test_shards_are_larger_in_long_lists(images: int, size: int) -> None:
    assert extraction.shard_size_for(images) == size


def test_a_list_that_is_long_has_larger_shards_and_keeps_them(
    few_images: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "cache"
    monkeypatch.setattr(extraction, "SHARD_SIZE", 2)
    monkeypatch.setattr(extraction, "_MANY_SHARDS", 4)
    count = extract(few_images, out, encoder=encoder, batch_size=2).encoded
    plan = read_plan(out)
    assert plan is not None and count > 4 * 2 and plan.shard_size == (4 if count <= 16 else 8)
    index_path(out).unlink()
    monkeypatch.undo()
    assert extract(few_images, out, encoder=encoder, batch_size=2).encoded == 0
