"""The one reader of labels: numbers in any writing, names, bytes, and words for what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ltcache.errors import ManifestError
from ltcache.manifest import ClassList, read_manifest
from ltcache.manifest.labels import read_labels
from tests.manifest.helpers import write


@pytest.mark.parametrize(
    "column",
    [
        ["10", "2", "\ufeff2"],
        [" 10", "2.0", "002"],
        [b"10", b"2", b"2"],
        [10, 2, 2],
        [10.0, 2.0, 2.0],
    ],
)
def test_whole_numbers_are_numbers_however_they_are_written(column: list[Any]) -> None:
    found = read_labels("x", "label", pa.array(column))
    assert isinstance(found.values, np.ndarray)
    assert found.values.tolist() == [10, 2, 2] and found.notes == ()


@pytest.mark.parametrize(
    "values",
    [
        pa.array([b"cat", b"dog", None]),
        pa.array([b"cat", b"dog", b""], pa.large_binary()),
        pa.array([b"cat", b"dog", None], pa.binary(3)),
        pa.array(["\ufeffcat", " dog ", ""], pa.large_string()),
        pa.array(["cat", "dog", None]).dictionary_encode(),
    ],
)
def test_bytes_and_texts_are_the_same_names(values: pa.Array) -> None:
    assert read_labels("x", "label", values).values == ["cat", "dog", None]


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(ManifestError, match=r"x: the column 'label' holds bytes, not UTF-8"):
        read_labels("x", "label", pa.array([b"\xff\xfe"]))


@pytest.mark.parametrize("word", ["nan", "NaN", "NA", "N/A", "<NA>", "None", "null", "NULL"])
def test_words_for_a_missing_value_among_numbers_are_no_class(tmp_path: Path, word: str) -> None:
    path = write(tmp_path / "train.csv", f"path,label\na.jpg,0\nb.jpg,{word}\nc.jpg,1\nd.jpg,\n")
    manifest = read_manifest(path)
    assert manifest.labels().tolist() == [0, -1, 1, -1] and manifest.num_classes == 2
    assert f"1 label(s) {word!r} are taken as missing, not as a class" in manifest.warnings[0]
    assert "2 of 4 rows of the split 'train' are unlabelled" in manifest.warnings[1]
    with pytest.raises(ManifestError, match="2 of 4 rows have no label"):
        read_manifest(path, labelled=True)


def test_they_are_missing_in_a_text_list_too(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path / "train.txt", "x/a.jpg 0\nx/b.jpg nan\ny/c.jpg 1\n"))
    assert manifest.labels().tolist() == [0, -1, 1]
    assert "are taken as missing" in manifest.warnings[0]


def test_a_class_called_none_beside_others_keeps_its_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", "path,label\na.jpg,None\nb.jpg,cat\nc.jpg,\n")
    manifest = read_manifest(path)
    assert manifest.classes.names == ("None", "cat")
    assert manifest.labels().tolist() == [0, 1, -1]
    assert "'None' are taken as the name of a class" in manifest.warnings[0]


def test_a_column_of_such_words_alone_is_a_class_only_where_one_is_called_so(
    tmp_path: Path,
) -> None:
    lone = write(tmp_path / "lone.csv", "path,label,split\na.jpg,NA,test\nb.jpg,NA,test\n")
    assert read_manifest(lone).num_classes == 0
    known = read_manifest(lone, classes=ClassList(("cat", "NA")))
    assert known.labels().tolist() == [1, 1]
    (tmp_path / "two").mkdir()
    write(tmp_path / "two" / "train.csv", "path,label\na.jpg,0\nb.jpg,1\n")
    write(tmp_path / "two" / "test.csv", "path,label\nc.jpg,NA\nd.jpg,NA\n")
    hidden = read_manifest(tmp_path / "two")
    assert hidden.num_classes == 2 and hidden.labels("test").tolist() == [-1, -1]
    assert any("2 label(s) 'NA' are taken as missing" in text for text in hidden.warnings)
    write(tmp_path / "two" / "train.csv", "path,label\na.jpg,NA\nb.jpg,cat\n")
    assert read_manifest(tmp_path / "two").labels("test").tolist() == [0, 0]


def test_numbers_among_names_are_said(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", "path,label\na.jpg,1\nb.jpg,cat\nc.jpg,12\n")
    manifest = read_manifest(path)
    assert manifest.classes.names == ("1", "12", "cat")
    assert "2 label(s) are whole numbers and others are not ('cat')" in manifest.warnings[0]


def test_classes_called_by_other_numbers_are_said(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", "path,label\na.jpg,1\nb.jpg,0\n")
    manifest = read_manifest(path, classes=ClassList(("1", "2")))
    assert manifest.labels().tolist() == [1, 0]
    assert "label 0 is called '1', label 1 is called '2'" in manifest.warnings[0]
    for names in (("0", "1"), ("0.", "1.0"), ("0", "two")):
        same = read_manifest(path, classes=ClassList(names))
        assert not any("is called" in text for text in same.warnings)


def test_numbers_that_are_names_in_another_file_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "path,label\na/1.jpg,J\na/2.jpg,2\n")
    test = write(tmp_path / "test.csv", "path,label\nb/1.jpg,2\nb/2.jpg,3\n")
    write(tmp_path / "classes.txt", "2\n3\n4\n5\nJ\n")
    with pytest.raises(ManifestError, match=r"may be names, too \(label 0 is called '2'.*in both"):
        read_manifest(tmp_path)
    alone = read_manifest(test).warnings
    assert any(
        "so are names of the classes, which differ (label 0 is called '2'" in w for w in alone
    )


def test_one_class_in_two_unicode_forms(tmp_path: Path) -> None:
    nfc, nfd = "Caf\u00e9", "Cafe\u0301"
    path = write(tmp_path / "train.csv", f"path,label\na.jpg,{nfc}\nb.jpg,{nfd}\nc.jpg,bar\n")
    manifest = read_manifest(path)
    assert manifest.classes.names == (nfc, "bar")
    assert manifest.labels().tolist() == [0, 0, 1]
    assert r"2 Unicode forms ('Cafe\u0301', 'Caf\xe9')" in manifest.warnings[0]
    given = read_manifest(path, classes=ClassList(("bar", nfd)))
    assert given.labels().tolist() == [1, 1, 0]
