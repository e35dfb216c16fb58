"""A list file is mapped: the same manifest, of which no process holds a row."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from ltcache.errors import ManifestError
from ltcache.extract.growth import number_items
from ltcache.manifest import Manifest, distinct, long_texts, read_manifest, write_list

LIST = "path,label,split,unit\na/0.jpg,0,train,x\na/1.jpg,0,val,\nb/2.jpg,1,train,y\n"
REPEATED = LIST + "b/2.jpg,1,val,z\n"


def _both(folder: Path, text: str = LIST) -> tuple[Manifest, Manifest]:
    (folder / "all.csv").write_text(text)
    read = read_manifest(folder / "all.csv")
    write_list(read, folder / "lists" / "all.arrow")
    return read, read_manifest(folder / "lists" / "all.arrow")


def _address(column: pa.ChunkedArray) -> int:
    return int(column.chunk(0).buffers()[-1].address)


@pytest.mark.parametrize("text", [LIST, REPEATED])
@pytest.mark.parametrize("limit", [0, long_texts.LONG])
def test_it_is_the_manifest_that_was_written(
    tmp_path: Path, text: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_texts, "LONG", limit)
    read, mapped = _both(tmp_path, text)
    assert mapped.rows.equals(read.rows) and mapped.rows.schema.metadata is None
    assert mapped.header() == read.header() and mapped.identity() == read.identity()
    assert mapped.root == tmp_path and mapped.splits == read.splits
    for one, other in zip(number_items(read), number_items(mapped), strict=True):
        assert one.tolist() == other.tolist()


def test_no_row_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _both(tmp_path, LIST + "".join(f"b/{row}.jpg,1,pool,\n" for row in range(3, 20_000)))
    monkeypatch.setattr(distinct, "_sums", None)  # keys and uris are known to be distinct
    before = pa.total_allocated_bytes()
    mapped = read_manifest(tmp_path / "lists" / "all.arrow")
    items, uris = number_items(mapped)
    assert pa.total_allocated_bytes() - before < 10_000
    assert uris.buffers()[2].address == _address(mapped.rows["uri"])
    assert items.ctypes.data == _address(mapped.rows["row_id"])


def test_splits_and_root_may_be_said_again_labels_not(tmp_path: Path) -> None:
    read, _ = _both(tmp_path)
    file = tmp_path / "lists" / "all.arrow"
    train = read_manifest(file, splits=["train"], root=tmp_path / "lists")
    assert train.root == tmp_path / "lists" and len(train) == 2
    assert train.identity() == read_manifest(tmp_path / "all.csv", splits=["train"]).identity()
    for option in ({"labelled": False}, {"label_column": "unit"}, {"classes": read.classes}):
        with pytest.raises(ManifestError, match=r"all\.arrow: its labels were read when"):
            read_manifest(file, **option)


def test_damage_is_refused(tmp_path: Path) -> None:
    _both(tmp_path)
    file = tmp_path / "lists" / "all.arrow"
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"b/2.jpg", b"b/7.jpg"))
    with pytest.raises(ManifestError, match=r"all\.arrow: its rows do not have the digest"):
        read_manifest(file)
    for data in (whole[: len(whole) // 2], b"", whole.replace(b"ltcache", b"LTCACHE")):
        file.write_bytes(data)
        with pytest.raises(ManifestError, match=r"all\.arrow: no list that ltcache has written"):
            read_manifest(file)
    file.write_bytes(whole.replace(b'"format":1', b'"format":9'))
    with pytest.raises(ManifestError, match=r"all\.arrow: format 9, this ltcache reads 1"):
        read_manifest(file)
    with pytest.raises(ManifestError, match=r"ends in \.arrow"):
        write_list(read_manifest(tmp_path / "all.csv"), tmp_path / "list.bin")
