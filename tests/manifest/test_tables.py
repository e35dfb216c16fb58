"""CSV, TSV, JSON Lines and Parquet lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ltcache.errors import ManifestError
from ltcache.manifest import ClassList, read_manifest
from tests.manifest.helpers import plain, write


def table_of(tmp_path: Path, columns: dict[str, list[Any]], name: str = "train.parquet") -> Path:
    """Write a Parquet file of some columns."""
    pq.write_table(pa.table(columns), tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("path_column", ["path", "uri", "image", "filepath", "File_Name"])
@pytest.mark.parametrize("label_column", ["label", "class", "Target"])
def test_column_names(tmp_path: Path, path_column: str, label_column: str) -> None:
    text = f"{path_column},{label_column},unit\n'a b'.jpg,1,u1\nc.jpg,0,u2\n"
    manifest = read_manifest(write(tmp_path / "test.csv", text))
    assert plain(manifest) == [("'a b'.jpg", 1, "test"), ("c.jpg", 0, "test")]
    assert manifest.rows["unit"].to_pylist() == ["u1", "u2"]


def test_quoted_fields_bom_crlf_and_blank_lines(tmp_path: Path) -> None:
    text = '\ufeffpath,label,note\r\n"a,b.jpg",0,"two\r\nlines"\r\n\r\n"c ""d"".jpg",1,\r\n'
    manifest = read_manifest(write(tmp_path / "train.csv", text))
    assert manifest.rows["uri"].to_pylist() == ["a,b.jpg", 'c "d".jpg']
    assert manifest.rows["note"].to_pylist() == ["two\r\nlines", ""]


def test_lines_are_counted_through_quoted_fields(tmp_path: Path) -> None:
    text = 'path,label,note\na.jpg,0,"two\nlines"\n\nb.jpg,7,x\n'
    with pytest.raises(ManifestError, match="train.csv line 5: label 7"):
        read_manifest(write(tmp_path / "train.csv", text), classes=ClassList(("ant",)))


def test_split_column(tmp_path: Path) -> None:
    text = "path\tlabel\tsplit\na.jpg\t0\tvalidation\nb.jpg\t0\tTrain\nc.jpg\t1\tholdout\n"
    manifest = read_manifest(write(tmp_path / "x.tsv", text))
    assert manifest.splits == ("train", "val", "holdout")
    assert plain(read_manifest(tmp_path / "x.tsv", splits=["valid"])) == [("a.jpg", 0, "val")]
    bad = write(tmp_path / "y.csv", "path,label,split\na.jpg,0,../x\n")
    with pytest.raises(ManifestError, match=r"y.csv.*the split '../x'"):
        read_manifest(bad)
    with pytest.raises(ManifestError, match="line 2: the column 'split' is empty"):
        read_manifest(write(tmp_path / "z.csv", "path,label,split\na.jpg,0,\n"))


def test_class_names_as_labels(tmp_path: Path) -> None:
    text = "path,label\na.jpg,red_fox\nb.jpg,class 10\nc.jpg,class 9\nd.jpg,\n"
    path = write(tmp_path / "train.csv", text)
    manifest = read_manifest(path)
    assert manifest.classes.names == ("class 9", "class 10", "red fox")
    assert manifest.labels().tolist() == [2, 1, 0, -1]
    given = ClassList(("class 10", "fox", "class 9"), (None, "red_fox", None))
    assert read_manifest(path, classes=given).labels().tolist() == [1, 0, 2, -1]


def test_ambiguous_and_unknown_class_names(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", "path,label\na.jpg,fox\nb.jpg,missile\n")
    classes = ClassList(("missile", "fox", "missile"), ("n03773504", "n1", "n04008634"))
    with pytest.raises(ManifestError, match=r"line 3: more than one class is called 'missile'"):
        read_manifest(path, classes=classes)
    by_id = write(tmp_path / "val.csv", "path,label\na.jpg,n04008634\nb.jpg,n03773504\n")
    assert read_manifest(by_id, classes=classes).labels().tolist() == [2, 0]
    with pytest.raises(ManifestError, match=r"line 3: 'missile' is none of the 1 classes"):
        read_manifest(path, classes=ClassList(("fox",)))


def test_names_from_a_name_column(tmp_path: Path) -> None:
    text = "path,label,name\na.jpg,1,red_fox\nb.jpg,0,crow\nc.jpg,1,red_fox\n"
    manifest = read_manifest(write(tmp_path / "train.csv", text))
    assert manifest.classes.names == ("crow", "red fox")
    assert manifest.rows["name"].to_pylist() == ["red_fox", "crow", "red_fox"]
    odd = write(tmp_path / "test.jsonl", '{"path": "x/a.jpg", "label": 0, "name": ["n"]}\n')
    assert read_manifest(odd).classes.names == ("x",)
    drawings = "path,label,name\nx/a.jpg,0,one\nx/b.jpg,0,two\ny/c.jpg,1,three\n"
    assert read_manifest(write(tmp_path / "val.csv", drawings)).classes.names == ("x", "y")


def test_float_labels_of_pandas(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", "path,label\na.jpg,3.0\nb.jpg,\n")
    assert read_manifest(path).labels().tolist() == [3, -1]
    floats = table_of(tmp_path, {"path": ["a", "b", "c"], "label": [1.0, None, float("nan")]})
    assert read_manifest(floats).labels().tolist() == [1, -1, -1]
    with pytest.raises(ManifestError, match="no label column"):
        read_manifest(table_of(tmp_path, {"path": ["a"], "label": [1.5]}))


def test_keys_given(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", "path,label,key\na.jpg,0,k1\nb.jpg,0,k2\n")
    assert read_manifest(path).rows["key"].to_pylist() == ["k1", "k2"]
    repeated = write(tmp_path / "val.csv", "path,label,key\na.jpg,0,k\nb.jpg,0,j\nc.jpg,0,k\n")
    with pytest.raises(ManifestError, match=r"val.csv line 4: the key 'k' is also at .* line 2"):
        read_manifest(repeated)


def test_columns_that_a_cache_needs_are_renamed(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", "path,label,width,item\na.jpg,0,640,x\n")
    manifest = read_manifest(path)
    assert manifest.rows.column_names[5:] == ["user_width", "user_item"]
    assert manifest.warnings == (
        "train.csv: columns carried along under new names: user_width, user_item",
    )


def test_jsonl(tmp_path: Path) -> None:
    records = [
        {"image": "a b.jpg", "label": 1, "unit": "u", "tags": ["x", "y"]},
        {"image": "c.jpg", "label": 0, "more": {"deep": 1}},
        {"image": "d.jpg", "label": None, "mixed": 1},
        {"image": "e.jpg", "label": 0, "mixed": "text"},
    ]
    text = "\n\n".join(map(json.dumps, records))
    manifest = read_manifest(write(tmp_path / "train.jsonl", text))
    assert manifest.labels().tolist() == [1, 0, -1, 0]
    assert manifest.rows["unit"].to_pylist() == ["u", None, None, None]
    assert manifest.rows["mixed"].to_pylist() == [None, None, "1", "text"]
    assert manifest.rows["tags"].to_pylist()[0] == ["x", "y"]


def test_parquet_dictionaries_and_other_types(tmp_path: Path) -> None:
    columns = {
        "uri": pa.array(["a.jpg", "b.jpg"]).dictionary_encode(),
        "label": pa.array(["fox", "crow"]).dictionary_encode(),
        "weight": pa.array([0.5, 1.5]),
    }
    manifest = read_manifest(table_of(tmp_path, columns))
    assert manifest.labels().tolist() == [1, 0]
    assert manifest.rows["weight"].to_pylist() == [0.5, 1.5]
    booleans = table_of(tmp_path, {"path": ["a.jpg", "b.jpg"], "label": [True, False]})
    assert read_manifest(booleans).labels().tolist() == [1, 0]


def test_unlabelled_tables(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path / "web.csv", "path\na.jpg\nb.jpg\n"))
    assert plain(manifest) == [("a.jpg", -1, "pool"), ("b.jpg", -1, "pool")]
    assert manifest.num_classes == 0
    labelled = write(tmp_path / "train.csv", "path,label\na.jpg,fox\n")
    assert plain(read_manifest(labelled, labelled=False)) == [("a.jpg", -1, "train")]


def test_a_directory_of_tables(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "path,label,vendor\na.jpg,fox,x\n")
    write(tmp_path / "test.csv", "path,label\nb.jpg,crow\n")
    write(tmp_path / "test_submission.csv", "id,prediction\n1,2\n")
    manifest = read_manifest(tmp_path)
    assert plain(manifest) == [("a.jpg", 1, "train"), ("b.jpg", 0, "test")]
    assert manifest.rows["vendor"].to_pylist() == ["x", None]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.csv", "", "no column of paths .* among no columns at all"),
        ("train.csv", "a;b\n1;2\n", "no column of paths"),
        ("train.csv", "a.jpg,0\nb.jpg,1\n", "its first line seems to be a row: .* path,label"),
        ("train.csv", "path,label\n", "no images are listed"),
        ("train.csv", "path,label\na.jpg\n", "line 2: 1 fields, expected 2"),
        ("train.csv", "path,Path\na,b\n", "the column 'path' is given twice"),
        ("train.csv", 'path,label\n"a.jpg,0\n', "line 2"),
        ("train.csv", "path,label\n,0\n", "line 2: the column 'path' is empty"),
        ("train.csv", "path,label\na.jpg,99999999999999999\n", "too high"),
        ("train.jsonl", '{"path": "a"}\n[1]\n', "line 2: not a JSON object"),
        ("train.jsonl", '{"path": "a"}\n{\n', "line 2: not JSON"),
        ("train.jsonl", '{"path": "a", "label": NaN}\n', "line 1: not JSON: NaN"),
        ("train.jsonl", '{"path": 3, "label": 0}\n', "the column 'path' holds int64, not text"),
        ("train.jsonl", '{"path": "a", "label": [0]}\n', "the column 'label' holds list"),
        ("train.jsonl", '{"path": "\\ud800", "label": 0}\n', "not Unicode"),
        ("train.parquet", "PAR1", "cannot be read as Parquet"),
        ("train.json", "[]", "not a list, table or archive by its suffix"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message) as caught:
        read_manifest(write(tmp_path / name, content))
    assert name in str(caught.value)


def test_names_and_numbers_do_not_mix(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "path,label\na.jpg,fox\n")
    write(tmp_path / "test.csv", "path,label\na.jpg,1\n")
    with pytest.raises(ManifestError, match=r"train.csv has class names and .*test.csv has numb"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_delimiters_than_the_comma(tmp_path: Path, delimiter: str) -> None:
    rows = [["path", "label", "share"], ["a,b.jpg", "cat", "0,5"], ["c.jpg", "dog", "1,0"]]
    text = "\ufeff" + "".join(f"{delimiter.join(row)}\r\n" for row in rows)
    manifest = read_manifest(write(tmp_path / "train.csv", text))
    assert plain(manifest) == [("a,b.jpg", 0, "train"), ("c.jpg", 1, "train")]
    assert manifest.rows["share"].to_pylist() == ["0,5", "1,0"]
    write(tmp_path / "classes.csv", f"label{delimiter}name\n0{delimiter}dog\n1{delimiter}cat\n")
    assert read_manifest(tmp_path / "train.csv").classes.names == ("dog", "cat")


def test_a_table_of_one_column_and_a_mixed_header(tmp_path: Path) -> None:
    one = write(tmp_path / "web.tsv", "path\na,b.jpg\nc;d.jpg\n")
    assert read_manifest(one).rows["uri"].to_pylist() == ["a,b.jpg", "c;d.jpg"]
    mixed = write(tmp_path / "train.csv", "path;label,share\na.jpg;0,5\n")
    with pytest.raises(ManifestError, match="no column of paths .* among 'path;label', 'share'"):
        read_manifest(mixed)


def class_labels(tmp_path: Path, name: str = "train.parquet", **columns: list[str]) -> Path:
    """Write a Parquet file with columns of class labels, as Hugging Face does; labels are 1, 0."""
    features = {k: {"names": names, "_type": "ClassLabel"} for k, names in columns.items()}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"path": ["a.jpg", "b.jpg"], **{column: [1, 0] for column in columns}})
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / name)
    return tmp_path / name


def test_the_only_class_label_is_taken_whatever_it_is_called(tmp_path: Path) -> None:
    manifest = read_manifest(class_labels(tmp_path, Breed=["pug", "husky"]))
    assert manifest.classes.names == ("pug", "husky")
    assert plain(manifest) == [("a.jpg", 1, "train"), ("b.jpg", 0, "train")]
    usual = read_manifest(class_labels(tmp_path, Label=["cat", "dog"], breed=["pug", "husky"]))
    assert usual.classes.names == ("cat", "dog")


def test_several_class_labels_are_named_and_one_is_chosen(tmp_path: Path) -> None:
    path = class_labels(tmp_path, fine_label=["pug", "husky"], coarse_label=["dog", "cat"])
    with pytest.raises(
        ManifestError, match="2 columns hold class labels .fine_label, coarse_label.; choose one"
    ):
        read_manifest(path)
    assert read_manifest(path, label_column="coarse_label").classes.names == ("dog", "cat")
    assert read_manifest(path, labelled=False).labels().tolist() == [-1, -1]
    with pytest.raises(ManifestError, match="no column 'breed' to take labels from among"):
        read_manifest(path, label_column="breed")


def test_a_chosen_column_beside_one_called_label(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", "path,label,species\na.jpg,0,fox\nb.jpg,0,crow\n")
    manifest = read_manifest(path, label_column="Species")
    assert manifest.classes.names == ("crow", "fox")
    assert manifest.labels().tolist() == [1, 0]
    assert manifest.rows["user_label"].to_pylist() == ["0", "0"]
    with pytest.raises(ManifestError, match="leave out --label-column"):
        read_manifest(write(tmp_path / "test.txt", "x/a.jpg 0\n"), label_column="species")


def test_a_table_without_labels_says_which_columns_it_has(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path / "train.csv", "path,category\na.jpg,fox\n"))
    assert manifest.labels().tolist() == [-1]
    assert "no column of labels (label, class, target) among category" in manifest.warnings[0]
    assert "--label-column" in manifest.warnings[0]


def test_files_that_name_their_classes_differently_are_refused(tmp_path: Path) -> None:
    class_labels(tmp_path, label=["cat", "dog"])
    class_labels(tmp_path, "test.parquet", label=["dog", "cat"])
    with pytest.raises(
        ManifestError, match=r"train.parquet and .*test.parquet .*: label 0 is 'cat' and 'dog'"
    ):
        read_manifest(tmp_path)


def test_a_column_called_like_a_canonical_one_does_not_take_its_place(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", "path,uri,label\na.jpg,http://x/1,0\n")
    manifest = read_manifest(path)
    assert manifest.rows["uri"].to_pylist() == ["a.jpg"]
    assert manifest.rows["user_uri"].to_pylist() == ["http://x/1"]
