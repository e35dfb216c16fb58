"""Generated manifests, written in every form, read back to the same rows; noise never crashes."""

from __future__ import annotations

import csv
import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ltcache.errors import LtcacheError
from ltcache.manifest import ClassList, Manifest, read_manifest
from ltcache.manifest.classes import composed
from ltcache.manifest.text import natural_key
from tests.manifest.helpers import Row, plain

SPLITS = ("train", "val", "test")
letters = st.characters(
    codec="utf-8", exclude_categories=("C", "Z"), exclude_characters='/\\:"', include_characters=" "
)
names = st.text(letters, min_size=1, max_size=8).filter(
    lambda text: (
        text == text.strip() and not text.startswith((".", "__")) and len(text.encode()) < 99
    )
)
quick = settings(max_examples=40)


@st.composite
def row_lists(draw: st.DrawFn) -> tuple[list[Row], ClassList]:
    """Return rows with distinct paths in split order, and more classes than may occur."""
    num_classes = draw(st.integers(1, 6))
    paths = st.lists(names, min_size=1, max_size=3).map("/".join)
    uris = draw(st.lists(paths.map(lambda p: p + ".jpg"), min_size=1, max_size=12, unique=True))
    labels = st.integers(0, num_classes - 1)
    rows = [(uri, draw(labels), draw(st.sampled_from(SPLITS))) for uri in uris]
    rows.sort(key=lambda row: SPLITS.index(row[2]))
    words = draw(st.lists(names, min_size=num_classes, max_size=num_classes))
    return rows, ClassList(tuple(words))


def by_split(rows: Sequence[Row]) -> dict[str, list[Row]]:
    return {s: [r for r in rows if r[2] == s] for s in SPLITS if any(r[2] == s for r in rows)}


def as_csv(rows: Sequence[Sequence[object]], header: Sequence[str], delimiter: str = ",") -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows([header, *rows])
    return text.getvalue()


def write_lists(folder: Path, rows: Sequence[Row], classes: ClassList) -> Manifest:
    for split, part in by_split(rows).items():
        text = "".join(f"{uri} {label}\r\n" for uri, label, _ in part)
        (folder / f"Set_LT_{split}.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    return read_manifest(folder, classes=classes)


def write_csv(folder: Path, rows: Sequence[Row], classes: ClassList) -> Manifest:
    text = as_csv(rows, ("path", "label", "split"))
    (folder / "set.csv").write_bytes(text.encode())
    return read_manifest(folder / "set.csv", classes=classes)


def write_tsv(folder: Path, rows: Sequence[Row], classes: ClassList) -> Manifest:
    for split, part in by_split(rows).items():
        text = as_csv([row[:2] for row in part], ("image", "target"), "\t")
        (folder / f"{split}.tsv").write_bytes(text.encode())
    return read_manifest(folder, classes=classes)


def write_jsonl(folder: Path, rows: Sequence[Row], classes: ClassList) -> Manifest:
    records = [{"uri": uri, "class": label, "split": split} for uri, label, split in rows]
    text = "\n".join(json.dumps(record) for record in records)
    (folder / "set.jsonl").write_bytes(text.encode())
    return read_manifest(folder / "set.jsonl", classes=classes)


def write_parquet(folder: Path, rows: Sequence[Row], classes: ClassList) -> Manifest:
    uris, labels, splits = map(list, zip(*rows, strict=True))
    pq.write_table(pa.table({"path": uris, "label": labels, "split": splits}), folder / "s.parquet")
    return read_manifest(folder / "s.parquet", classes=classes)


def write_directory(folder: Path, rows: Sequence[Row], classes: ClassList) -> Manifest:
    parts = by_split(rows)
    card = {"name": "set", "lists": {split: f"{split}.csv" for split in parts}}
    (folder / "dataset.json").write_bytes(json.dumps(card).encode())
    lines = as_csv(list(enumerate(classes.names)), ("label", "name"))
    (folder / "classes.csv").write_bytes(lines.encode())
    for split, part in parts.items():
        text = as_csv([row[:2] for row in part], ("path", "label"))
        (folder / f"{split}.csv").write_bytes(text.encode())
    return read_manifest(folder)


FORMS = (write_lists, write_csv, write_tsv, write_jsonl, write_parquet, write_directory)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@given(drawn=row_lists())
@quick
def test_every_form_reads_to_the_same_rows(
    form: Callable[[Path, Sequence[Row], ClassList], Manifest], drawn: tuple[list[Row], ClassList]
) -> None:
    rows, classes = drawn
    with tempfile.TemporaryDirectory() as folder:
        manifest = form(Path(folder), rows, classes)
    assert plain(manifest) == rows
    assert manifest.classes.names == classes.names
    assert manifest.rows["key"].to_pylist() == [uri for uri, _, _ in rows]
    again = Manifest.from_header(json.loads(json.dumps(manifest.header())), manifest.rows)
    assert again.identity() == manifest.identity()


@given(st.lists(st.tuples(names, names, st.sampled_from(SPLITS)), min_size=1, max_size=10))
@quick
def test_archives_of_class_folders(found: list[tuple[str, str, str]]) -> None:
    assume(len({composed(f) for f, _, _ in found}) == len({f for f, _, _ in found}))
    members = sorted({f"{split}/{folder}/{name}.png" for folder, name, split in found})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for member in members:
                archive.writestr(member, b"image")
        manifest = read_manifest(path)
    assert sorted(manifest.rows["uri"].to_pylist()) == members
    folders = sorted({f for f, _, _ in found}, key=lambda name: natural_key(composed(name)))
    assert list(manifest.classes.source_ids) == folders
    for uri, label, split in plain(manifest):
        assert uri.split("/")[:2] == [split, folders[label]]


NOISE = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.text("apth,lbe\"'0123 \t\r\n-./\\{}[]:", max_size=60).map(str.encode),
    st.text("0123 \t\r\n-./\\ab,", max_size=40).map(lambda text: b"path,label\n" + text.encode()),
)
FILES = ("train.txt", "train.csv", "train.tsv", "train.jsonl", "train.parquet", "train.zip")


@pytest.mark.parametrize("name", FILES)
@given(data=NOISE)
@settings(max_examples=60)
def test_noise_is_read_or_refused(name: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        try:
            manifest = read_manifest(path)
        except LtcacheError as error:
            assert str(error)
        else:
            assert len(manifest) > 0
            assert not any(uri.startswith("/") for uri in manifest.rows["uri"].to_pylist())


KEYS = ("name", "lists", "images", "sha256", "groups", "templates", "0", "train")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize(
    "name", ["dataset.json", "classes.csv", "train.csv", "descriptions.json", "names.txt"]
)
@given(data=st.one_of(NOISE, VALUES.map(lambda value: json.dumps(value).encode())))
@settings(max_examples=60)
def test_noise_in_a_manifest_directory(name: str, data: bytes) -> None:
    known = {
        "dataset.json": b"{}",
        "classes.csv": b"label,name\n0,fox\n",
        "train.csv": b"path,label\na.jpg,0\n",
    }
    with tempfile.TemporaryDirectory() as folder:
        for file, content in {**known, name: data}.items():
            (Path(folder) / file).write_bytes(content)
        classes = Path(folder) / name if name == "names.txt" else None
        try:
            manifest = read_manifest(folder, classes=classes)
        except LtcacheError as error:
            assert str(error)
        else:
            assert len(manifest) > 0
            json.dumps(manifest.identity())
            json.dumps(manifest.header())
