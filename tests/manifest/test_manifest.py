"""The canonical form: keys, splits, identities, headers, and tables that break its rules."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ltcache.errors import ManifestError, UsageError
from ltcache.examine.inspection import describe
from ltcache.manifest import COLUMNS, ClassList, Manifest, read_manifest
from tests.manifest.helpers import manifest_dir, plain, touch, write


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Three classes, one of them empty; three splits; a user column."""
    text = (
        "path,label,split,unit\n"
        "a.jpg,0,train,u1\nb.jpg,0,train,u2\nc.jpg,2,train,u3\n"
        "d.jpg,2,test,u4\ne.jpg,,pool,u5\n"
    )
    path = write(tmp_path / "set.csv", text)
    return read_manifest(path, classes=ClassList(("ant", "bee", "cat")))


def test_canonical_columns(manifest: Manifest) -> None:
    assert manifest.rows.schema.names == [*COLUMNS.names, "unit"]
    assert manifest.rows.select(COLUMNS.names).schema == COLUMNS
    assert manifest.rows["row_id"].to_pylist() == [0, 1, 2, 3, 4]
    assert manifest.rows["key"].to_pylist() == manifest.rows["uri"].to_pylist()


def test_labels_and_counts(manifest: Manifest) -> None:
    assert manifest.splits == ("train", "test", "pool")
    assert manifest.labels("train").tolist() == [0, 0, 2]
    assert manifest.labels("pool").tolist() == [-1]
    assert manifest.labels().dtype == np.int64
    assert manifest.class_counts().tolist() == [2, 0, 1]
    assert manifest.class_counts(None).tolist() == [2, 0, 2]
    assert manifest.class_counts("val").tolist() == [0, 0, 0]
    assert manifest.class_counts().dtype == np.int64


def test_splits_can_be_chosen(manifest: Manifest, tmp_path: Path) -> None:
    classes = manifest.classes
    chosen = read_manifest(tmp_path / "set.csv", classes=classes, splits=["test", "train"])
    assert [row[0] for row in plain(chosen)] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert chosen.classes == classes
    with pytest.raises(UsageError, match="has no split val; it has train, test, pool"):
        read_manifest(tmp_path / "set.csv", classes=classes, splits=["val"])


def test_head(manifest: Manifest) -> None:
    assert plain(manifest.head(2)) == plain(manifest)[:2]
    assert manifest.head(2).classes == manifest.classes


def test_frozen(manifest: Manifest) -> None:
    with pytest.raises(FrozenInstanceError):
        manifest.name = "other"  # type: ignore[misc]


def test_header_round_trip(manifest: Manifest) -> None:
    full = replace(
        manifest,
        templates=("a {}",),
        groups={"many": [0], "few": [1, 2]},
        descriptions={2: ("cat", "Katze")},
        card={"title": "T"},
    )
    for one in (manifest, full):
        stored = json.loads(json.dumps(one.header(), allow_nan=False))
        again = Manifest.from_header(stored, one.rows)
        assert again.identity() == one.identity()
        assert again == replace(one, root=None, warnings=())
    with pytest.raises(ManifestError, match="not the header of a manifest"):
        Manifest.from_header({"name": "x"}, manifest.rows)


def test_identity_names_what_differs(manifest: Manifest) -> None:
    known = manifest.identity()
    json.dumps(known, allow_nan=False)
    for field, other in {
        "classes": replace(manifest, classes=ClassList(("ant", "bee", "dog"))),
        "templates": replace(manifest, templates=("{}",)),
        "groups": replace(manifest, groups={"few_below": 3}),
        "descriptions": replace(manifest, descriptions={0: ("x",)}),
    }.items():
        found = other.identity()
        assert [key for key in known if known[key] != found[key]] == [field]
    relabelled = manifest.rows.set_column(3, "label", [pa.array([0, 1, 2, 2, -1])])
    assert replace(manifest, rows=relabelled).identity()["rows"] != known["rows"]
    same = replace(manifest, name="other", card={"a": 1}, root=None, warnings=("x",))
    assert same.identity() == known


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("row_id", pa.array([1, 2]), "'row_id' does not count from 0"),
        ("key", pa.array(["a", "a"]), "'key' is not unique"),
        ("uri", pa.array(["a", None]), "'uri' has empty values"),
        ("label", pa.array([0, 1]), "labels run from 0 to 1, but there are 1 classes"),
        ("label", pa.array([0, -2]), "labels run from -2"),
        ("label", pa.array([0.0, 0.0]), "'label' is double, not int64"),
        ("split", None, "lack the column 'split'"),
    ],
)
def test_rows_that_break_a_rule(column: str, values: pa.Array | None, message: str) -> None:
    columns = {
        "row_id": pa.array([0, 1]),
        "key": pa.array(["a", "b"]),
        "uri": pa.array(["a", "b"]),
        "label": pa.array([0, 0]),
        "split": pa.array(["train", "train"]),
    }
    table = pa.table({**columns, **({column: values} if values is not None else {})})
    rows = table if values is not None else table.drop_columns([column])
    with pytest.raises(ManifestError, match=message):
        Manifest("x", rows, ClassList(("ant",)))


def test_an_image_in_two_splits_keeps_both_rows(tmp_path: Path) -> None:
    write(tmp_path / "train.txt", "x/a.jpg 0\nx/b.jpg 0\n")
    write(tmp_path / "test.txt", "x/a.jpg 0\n")
    manifest = read_manifest(tmp_path)
    assert manifest.rows["key"].to_pylist() == ["train/x/a.jpg", "x/b.jpg", "test/x/a.jpg"]
    assert manifest.warnings == (
        "1 image(s) are in more than one split; their keys are SPLIT/PATH",
    )


def test_keys_stay_unique_when_paths_begin_with_a_split(tmp_path: Path) -> None:
    write(tmp_path / "train.txt", "a.jpg 0\ntest/a.jpg 0\n")
    write(tmp_path / "test.txt", "a.jpg 0\n")
    keys = read_manifest(tmp_path).rows["key"].to_pylist()
    assert keys == ["train/a.jpg", "train/test/a.jpg", "test/a.jpg"]


def test_a_path_twice_in_one_split_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", "x/a.jpg 0\n\nx/b.jpg 0\n./x//a.jpg 1\n")
    with pytest.raises(ManifestError, match=r"line 4: 'x/a.jpg' is already in .*'train', at .* 1$"):
        read_manifest(path)


@pytest.mark.parametrize(
    "uri",
    ["/etc/passwd", "../x.jpg", "a/../../x.jpg", "..", "C:/x.jpg", "C:\\x.jpg", "\\x.jpg",
     "..\\x.jpg", "http://h/x.jpg", "s3://b/x.jpg", "a\0.jpg", ".", "./"],
)  # fmt: skip
def test_paths_that_leave_the_root(tmp_path: Path, uri: str) -> None:
    path = write(tmp_path / "train.txt", f"a/ok.jpg 0\n{uri} 0\n")
    with pytest.raises(
        ManifestError, match=r"train.txt line 2: the path .*is (absolute and )?(not below|empty)"
    ):
        read_manifest(path)


def test_paths_are_tidied(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", "a\\b c.jpg 0\n./a//d.jpg 0\na/./e..jpg 0\n..f/g.jpg 0\n")
    uris = read_manifest(path).rows["uri"].to_pylist()
    assert uris == ["a/b c.jpg", "a/d.jpg", "a/e..jpg", "..f/g.jpg"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a/1.jpg 0\nb/\xff.jpg 0\n", r"train.txt: not UTF-8 at byte offset 12 \(0xff\)"),
        (b"\xef\xbb\xbfa/\xe9.jpg 0\n", r"not UTF-8 at byte offset 5 \(0xe9\)"),
        ("a.jpg 0".encode("utf-16"), "UTF-16 from byte 0"),
        (b"", "no images are listed"),
        (b"\n \r\n", "no images are listed"),
    ],
)
def test_bytes_that_are_no_list(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read_manifest(write(tmp_path / "train.txt", data))


@pytest.mark.parametrize("source", ["", "a\0b", "no/such/thing", "x" * 5000])
def test_sources_that_are_not_there(source: str) -> None:
    with pytest.raises(ManifestError):
        read_manifest(source if source else [])


def test_several_files_must_be_alike(tmp_path: Path) -> None:
    text = write(tmp_path / "train.txt", "a.jpg 0\n")
    table = write(tmp_path / "test.csv", "path,label\na.jpg,0\n")
    with pytest.raises(ManifestError, match="of different kinds"):
        read_manifest([text, table])
    archives = [write(tmp_path / name, "x") for name in ("a.zip", "b.zip")]
    with pytest.raises(ManifestError, match="at a time"):
        read_manifest(archives)


def test_description(manifest: Manifest, tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg", "d.jpg", "e.jpg")
    summary = describe(replace(manifest, groups={"many_above": 1, "few_below": 1})).to_dict()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["splits"]["train"] == {
        "rows": 3, "labelled": 3, "max": 2, "min": 0, "median": 1.0, "empty": [1],
    }  # fmt: skip
    assert summary["splits"]["pool"] == {
        "rows": 1, "labelled": 0, "max": None, "min": None, "median": None, "empty": [],
    }  # fmt: skip
    assert summary["groups"]["sizes"] == {"many": 1, "medium": 1, "few": 1}
    assert "n>1" in summary["groups"]["scheme"]
    assert (summary["counted_on"], summary["imbalance_ratio"]) == ("train", 2.0)
    assert summary["missing"] == {"count": 1, "total": 5, "first": ["c.jpg"], "hint": ""}
    assert summary["columns"] == ["unit"]
    assert any("1 (bee)" in warning for warning in summary["warnings"])


def test_description_of_explicit_groups_and_of_a_pool(tmp_path: Path) -> None:
    card = {"groups": {"many": [0], "few": [1]}}
    classes = "label,name\n0,rest\n1,rare\n2,other\n"
    train = "path,label\na.jpg,0\nb.jpg,0\nc.jpg,1\nd.jpg,2\n"
    path = manifest_dir(tmp_path / "two", card, classes_csv=classes, train_csv=train)
    groups = describe(read_manifest(path), check_files=False).to_dict()["groups"]
    assert groups["sizes"] == {"many": 1, "medium": 0, "few": 1, "-": 1}
    pool = describe(read_manifest(touch(tmp_path / "pool", "x.jpg"))).to_dict()
    assert (pool["groups"], pool["counted_on"], pool["imbalance_ratio"]) == (None, None, None)
    assert pool["missing"]["count"] == 0
