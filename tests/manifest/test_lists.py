"""The field's ``path label`` lists."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ltcache.errors import ManifestError
from ltcache.examine.inspection import describe
from ltcache.manifest import ClassList, read_manifest
from tests.manifest.helpers import listed, plain, write

CLASSES = 365


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lists in the form of Places-LT: 365 classes, 62,500 images, 4980 to 5 a class."""
    folder = tmp_path_factory.mktemp("places")
    many = [4980] + [376] * 45 + [375] * 85
    medium = [100] + [50] * 156 + [20] * 6
    counts = many + medium + [10] * 70 + [5]
    names = [f"scene_{k:03d}" + ("-outdoor" if k % 5 == 0 else "") for k in range(CLASSES)]
    lines = listed(counts, names)
    write(folder / "Places_LT_train.txt", "\n".join(lines) + "\n")
    val = [f"train/{name}/{90_000_000 + i}.jpg {k}" for k, name in enumerate(names) for i in (0, 1)]
    write(folder / "Places_LT_val.txt", "\n".join(val) + "\n")
    write(folder / "Places_LT_classnames.txt", "\n".join(f"{n} {n}" for n in names) + "\n")
    return folder


def test_places_lists_read_as_they_are(places: Path) -> None:
    manifest = read_manifest(places)
    counts = manifest.class_counts()
    assert (manifest.name, manifest.splits, manifest.num_classes) == (
        "Places_LT",
        ("train", "val"),
        CLASSES,
    )
    assert (counts.sum(), counts.max(), counts.min()) == (62_500, 4980, 5)
    assert manifest.classes.names[5] == "scene 005 outdoor"
    assert manifest.classes.source_ids[5] == "scene_005-outdoor"
    assert manifest.card == {"class_names": "readable_name/1"}
    summary = describe(manifest, check_files=False).to_dict()
    assert summary["groups"]["sizes"] == {"many": 131, "medium": 163, "few": 71}
    assert summary["imbalance_ratio"] == 996


def test_beginning_of_the_name_and_single_files(places: Path) -> None:
    both = read_manifest(places / "Places_LT")
    train = read_manifest(str(places / "Places_LT_train.txt"))
    files = read_manifest([places / "Places_LT_train.txt", places / "Places_LT_val.txt"])
    assert both.identity() == read_manifest(places).identity() == files.identity()
    assert plain(train) == [row for row in plain(both) if row[2] == "train"]
    assert train.classes == both.classes


def test_speed(places: Path) -> None:
    read_manifest(places / "Places_LT_val.txt")  # what it imports is there
    start = time.process_time()
    manifest = read_manifest(places / "Places_LT_train.txt")
    assert len(manifest) == 62_500
    assert time.process_time() - start < 2  # about 0.2 s on a laptop


def test_blanks_unicode_crlf_bom_and_empty_lines(tmp_path: Path) -> None:
    text = "\ufeffmy cat/ä b 1.jpg 0\r\n\r\n  dir/x.jpg\t1  \r\n\u2028y/z.jpg 1"
    manifest = read_manifest(write(tmp_path / "train.txt", text))
    assert manifest.rows["uri"].to_pylist() == ["my cat/ä b 1.jpg", "dir/x.jpg", "y/z.jpg"]
    assert manifest.labels().tolist() == [0, 1, 1]
    assert manifest.name == tmp_path.name


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("iNaturalist18_train.txt", "train"),
        ("train2018.txt", "train"),
        ("x-valid.txt", "val"),
        ("validation.lst", "val"),
        ("ImageNet_LT_TEST.txt", "test"),
        ("train_test.txt", "test"),
    ],
)
def test_split_from_the_name(tmp_path: Path, name: str, split: str) -> None:
    manifest = read_manifest(write(tmp_path / name, "a/b.jpg 0\n"))
    assert (manifest.splits, manifest.warnings) == ((split,), ())


def test_no_split_in_the_name_is_warned_of(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path / "images.txt", "a/b.jpg 0\n"))
    assert manifest.splits == ("train",)
    assert manifest.warnings == (
        "images.txt: its name tells no split; its rows are taken as 'train'",
    )


def test_class_list_keeps_empty_classes(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", "a/1.jpg 0\nc/1.jpg 2\n")
    names = write(tmp_path / "my_names.txt", "ant\nbee\ncat\ndog\n")
    manifest = read_manifest(path, classes=names)
    assert manifest.class_counts().tolist() == [1, 0, 1, 0]
    assert manifest.warnings == (
        "2 class(es) have no image in the split 'train': 1 (bee), 3 (dog)",
    )
    same = read_manifest(path, classes=ClassList(("ant", "bee", "cat", "dog")))
    assert same.classes.names == manifest.classes.names


def test_names_from_folders_or_numbers(tmp_path: Path) -> None:
    folders = write(tmp_path / "a" / "train.txt", "train/red_fox/1.jpg 1\ntrain/crow/1.jpg 0\n")
    assert read_manifest(folders).classes.names == ("crow", "red fox")
    flat = write(tmp_path / "b" / "train.txt", "1.jpg 0\n2.jpg 2\n")
    assert read_manifest(flat).classes.names == ("class 0", "class 1", "class 2")
    mixed = write(tmp_path / "c" / "train.txt", "x/1.jpg 0\ny/2.jpg 0\nz/3.jpg 1\n")
    assert read_manifest(mixed).classes.names == ("class 0", "class 1")
    shared = write(tmp_path / "d" / "train.txt", "a/in/1.jpg 0\nb/in/2.jpg 1\n")
    assert read_manifest(shared).classes.names == ("a/in", "b/in")
    gap = write(tmp_path / "e" / "train.txt", "a/1.jpg 0\nc/2.jpg 2\n")
    assert read_manifest(gap).classes.names == ("a", "class 1", "c")


def test_training_folders_name_classes_where_the_test_images_lie_flat(tmp_path: Path) -> None:
    write(tmp_path / "P_train.txt", "data_256/f/fox/1.jpg 0\ndata_256/c/crow/2.jpg 1\n")
    write(tmp_path / "P_test.txt", "val_256/3.jpg 0\nval_256/4.jpg 1\n")
    assert read_manifest(tmp_path).classes.names == ("fox", "crow")


def test_nearest_names_file_is_chosen(tmp_path: Path) -> None:
    write(tmp_path / "A_train.txt", "x/1.jpg 0\n")
    write(tmp_path / "A_classnames.txt", "ant\nape\n")
    write(tmp_path / "B_classnames.txt", "bee\n")
    assert read_manifest(tmp_path).classes.names == ("ant", "ape")
    with pytest.raises(ManifestError, match="several files of class names"):
        read_manifest(write(tmp_path / "train.txt", "x/1.jpg 0\n"))


def test_lists_of_several_datasets_are_not_mixed(tmp_path: Path) -> None:
    for name in ("A_train.txt", "A_test.txt", "B_train.txt"):
        write(tmp_path / name, f"{name}.jpg 0\n")
    with pytest.raises(ManifestError, match="several datasets .* such as .*/A"):
        read_manifest(tmp_path)
    assert read_manifest(tmp_path / "A").splits == ("train", "test")


@pytest.mark.parametrize(
    ("suffix", "lines"), [("txt", "img/1.jpg 0\n"), ("csv", "path,label\nimg/1.jpg,0\n")]
)
def test_lists_of_several_folders_need_a_root(tmp_path: Path, suffix: str, lines: str) -> None:
    first = write(tmp_path / "a" / f"train.{suffix}", lines)
    second = write(tmp_path / "b" / f"test.{suffix}", lines)
    beside = write(tmp_path / "a" / f"val.{suffix}", lines)
    with pytest.raises(ManifestError, match=r"lie in different folders.*say it with --root"):
        read_manifest([first, second])
    assert read_manifest([first, second], root=tmp_path / "b").root == tmp_path / "b"
    assert read_manifest([first, tmp_path / "b" / ".." / "a" / beside.name]).root == tmp_path / "a"


def test_lists_of_paths_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "pool.txt", "my cat 3\nx.jpg\n")
    with pytest.raises(ManifestError, match=r"pool.txt line 2: expected 'path label'.*x\.jpg"):
        read_manifest(path)
    manifest = read_manifest(path, labelled=False)
    assert plain(manifest) == [("my cat 3", -1, "pool"), ("x.jpg", -1, "pool")]
    assert manifest.num_classes == 0
    known = write(tmp_path / "train.txt", "my cat.jpg 3\nx.png 12\n")
    stripped = read_manifest(known, labelled=False)
    assert plain(stripped) == [("my cat.jpg", -1, "train"), ("x.png", -1, "train")]


@pytest.mark.parametrize("label", ["x", "1.5", "0x10", "1_0", "+1", "9" * 30, "१"])
def test_labels_that_are_no_whole_numbers(tmp_path: Path, label: str) -> None:
    path = write(tmp_path / "train.txt", f"a/1.jpg 0\n\na/2.jpg {label}\n")
    with pytest.raises(ManifestError, match=r"train.txt line 3: expected 'path label'"):
        read_manifest(path)


def test_labels_beyond_the_class_list(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", "a/1.jpg 0\na/2.jpg 2\n")
    with pytest.raises(ManifestError, match=r"line 2: label 2, but the class list has 2 classes"):
        read_manifest(path, classes=write(tmp_path / "names.txt", "ant\nbee\n"))
    with pytest.raises(ManifestError, match=r"line 1: label -2"):
        read_manifest(write(tmp_path / "val.txt", "a/1.jpg -2\na/2.jpg 1\n"))
    with pytest.raises(ManifestError, match=r"line 1: label 99999999999 is too high"):
        read_manifest(write(tmp_path / "test.txt", "a/1.jpg 99999999999\n"))


def test_unlabelled_rows_are_warned_of_and_can_be_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", "a/1.jpg 0\na/2.jpg -1\n")
    assert "1 of 2 rows of the split 'train' are unlabelled" in read_manifest(path).warnings
    with pytest.raises(ManifestError, match="1 of 2 rows have no label"):
        read_manifest(path, labelled=True)
