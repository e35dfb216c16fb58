"""Labels that are one column for each class, several classes of one image, or quantities."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltcache.errors import ManifestError
from ltcache.manifest import ClassList, read_manifest
from tests.manifest.helpers import plain, write

HEADER = "image,age,MEL,NV,BCC\n"


@pytest.mark.parametrize(("one", "zero"), [("1", "0"), ("1.0", "0.0"), ("True", "False")])
def test_one_column_of_each_class_with_one_1_in_each_row(
    tmp_path: Path, one: str, zero: str
) -> None:
    write(
        tmp_path / "train.csv",
        HEADER + f"a.jpg,7,{zero},{one},{zero}\nb.jpg,8,{one},{zero},{zero}\n",
    )
    write(
        tmp_path / "test.csv",
        HEADER + f"c.jpg,9,{zero},{zero},{one}\nd.jpg,9,{one},{zero},{zero}\n",
    )
    found = read_manifest(tmp_path)
    assert found.classes.names == ("MEL", "NV", "BCC")
    assert plain(found) == [
        ("a.jpg", 1, "train"), ("b.jpg", 0, "train"), ("c.jpg", 2, "test"), ("d.jpg", 0, "test")
    ]  # fmt: skip
    assert any("classes are the columns of 0 and 1: MEL, NV, BCC" in w for w in found.warnings)
    assert not {"nv", "NV"} & set(found.rows.column_names)
    assert "age" in found.rows.column_names
    asked = read_manifest(tmp_path, classes=ClassList(("BCC", "MEL", "NV")))
    assert asked.labels().tolist() == [2, 1, 0, 1]  # by name, not by the place of the column
    assert (read_manifest(tmp_path / "train.csv", labelled=False).labels() < 0).all()


def test_files_that_spell_their_class_columns_differently_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "image,MEL,NV,BCC\na.jpg,1,0,0\nb.jpg,0,1,0\nc.jpg,0,0,1\n")
    write(tmp_path / "test.csv", "image,mel,nv,bcc\nd.jpg,1,0,0\n")
    with pytest.raises(ManifestError, match="differently: label 0 is 'MEL' and 'mel'"):
        read_manifest(tmp_path)


def test_several_classes_of_one_image_are_refused_with_what_helps(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", HEADER + "a.jpg,7,0,1,0\nb.jpg,8,1,,1\nc.jpg,8,1,0,-1\n")
    with pytest.raises(ManifestError, match="train.csv line 3: 2 of the 3 columns of 0 and 1"):
        read_manifest(path)
    assert read_manifest(path, label_column="NV").labels().tolist() == [1, -1, 0]
    assert (read_manifest(path, labelled=False).labels() < 0).all()


@pytest.mark.parametrize(
    "rows",
    [
        "image,flipped,grey\na.jpg,1,1\nb.jpg,0,0\n",  # remarks
        "image,width,height,place,flipped,grey,blurred\na.jpg,9,9,x,1,1,0\nb.jpg,9,9,y,0,0,1\n",
        "image,train,test\na.jpg,1,0\nb.jpg,0,1\n",  # splits
        "image,mel,nv,bcc\na.jpg,1,0,0\nb.jpg,0,0,0\n",  # one of no class
    ],
)
def test_other_columns_of_0_and_1_are_no_classes(tmp_path: Path, rows: str) -> None:
    found = read_manifest(write(tmp_path / "pool.csv", rows))
    assert found.labels().tolist() == [-1, -1]
    assert any("no column of labels" in warning for warning in found.warnings)


def test_labels_that_put_several_classes_together_are_told_of(tmp_path: Path) -> None:
    lines = 'path,label\na.jpg,fox|owl\nb.jpg,fox\nc.jpg,"salt, pepper"\n'
    found = read_manifest(write(tmp_path / "train.csv", lines))
    (told,) = [warning for warning in found.warnings if "put together" in warning]
    assert told.startswith("1 label(s) put together several classes ('fox|owl')")


@pytest.mark.parametrize(
    "labels", [("0.5", "1.0", "2"), ("0.25", "-1.5", ""), ("1.0e+00", "2.", "3")]
)
def test_decimal_numbers_are_no_classes_unless_named_so(
    tmp_path: Path, labels: tuple[str, ...]
) -> None:
    lines = "".join(f"{row}.jpg,{label}\n" for row, label in enumerate(labels))
    path = write(tmp_path / "train.csv", "path,label\n" + lines)
    with pytest.raises(
        ManifestError, match="train.csv: the labels are decimal numbers .*--classes"
    ):
        read_manifest(path)
    names = write(tmp_path / "names.txt", "\n".join(label for label in labels if label))
    found = read_manifest(path, classes=names)
    assert found.labels().tolist() == [k if label else -1 for k, label in enumerate(labels)]


def test_names_that_hold_numbers_are_names(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", "path,label\na.jpg,1.5\nb.jpg,v2\n")
    assert read_manifest(path).classes.names == ("1.5", "v2")
    whole = write(tmp_path / "test.csv", "path,label\na.jpg,0.0\nb.jpg,2.00\nc.jpg,\n")
    assert read_manifest(whole).labels().tolist() == [0, 2, -1]
