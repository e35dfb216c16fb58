"""The vocabulary of splits, and what is said of names that look like splits and are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltcache.errors import ManifestError
from ltcache.manifest import read_manifest
from ltcache.manifest.splits import canonical_split, known_split, looks_like_split, split_in
from tests.manifest.helpers import plain, touch, write

IMAGES = ("cat/1.jpg", "dog/2.jpg")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("training_set", "train"),
        ("trainset", "train"),
        ("Train Images", "train"),
        ("images-train", "train"),
        ("VALID", "val"),
        ("dev", "val"),
        ("test_data", "test"),
        ("unlabeled", "pool"),
        ("train2017", None),
        ("trainval", None),
        ("train_test", None),
        ("swimming_pool", None),
        ("test tube", None),
        ("retrain", None),
        ("images", None),
    ],
)
def test_names_as_a_whole(name: str, split: str | None) -> None:
    assert known_split(name) == split
    assert canonical_split(name) == (split or name)


def test_what_looks_like_a_split() -> None:
    for name in ("train2017", "trainval", "eval", "holdout_set", "fold_1", "val_256", "test"):
        assert looks_like_split(name)
    for name in ("swimming_pool", "cat", "test tube", "images", "pool_äpfel", "07"):
        assert not looks_like_split(name)


def test_training_and_validation_together_are_neither() -> None:
    assert split_in("VOC_trainval") == (None, "VOC_trainval")
    assert split_in("VOC_train_val") == (None, "VOC_train_val")
    assert split_in("Places_LT_train") == ("train", "Places_LT")
    assert split_in("trainset") == ("train", "")


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training_set", "test_set"),
        ("train_images", "testing"),
        ("train2017", "test2017"),
        ("Places_train", "Places_test"),
        ("training_set/training_set", "test_set/test_set"),
    ],
)
def test_folders_of_splits_are_no_classes(tmp_path: Path, train: str, test: str) -> None:
    touch(tmp_path, *(f"{folder}/{image}" for folder in (train, test) for image in IMAGES))
    manifest = read_manifest(tmp_path)
    assert manifest.classes.names == ("cat", "dog")
    assert plain(manifest) == [
        (f"{folder}/{image}", label, split)
        for folder, split in ((train, "train"), (test, "test"))
        for label, image in enumerate(IMAGES)
    ]
    assert manifest.warnings == ()


def test_folders_that_look_like_splits_beside_others_are_said(tmp_path: Path) -> None:
    touch(tmp_path / "a", *(f"{folder}/{image}" for folder in ("fold1", "x") for image in IMAGES))
    manifest = read_manifest(tmp_path / "a")
    assert manifest.classes.names == ("fold1", "x")
    assert "class folder(s) whose names look like a split: 'fold1'" in manifest.warnings[0]
    touch(tmp_path / "b", "test_set/cat/1.jpg", "holdout/cat/2.jpg")
    with pytest.raises(ManifestError, match="'test_set' looks like a split, but holdout stand"):
        read_manifest(tmp_path / "b")


def test_a_folder_for_all_images_of_a_split_is_no_class(tmp_path: Path) -> None:
    touch(tmp_path / "a", *(f"{s}/images/{c}/1.jpg" for s in ("train", "test") for c in "xy"))
    manifest = read_manifest(tmp_path / "a")
    assert manifest.classes.names == ("x", "y")
    assert plain(manifest)[-1] == ("test/images/y/1.jpg", 1, "test")
    assert "the images of the split 'test' are read below 'test/images/'" in manifest.warnings
    touch(tmp_path / "b", "train/x/images/1.jpg", "train/y/images/1.jpg", "val/images/1.jpg")
    assert plain(read_manifest(tmp_path / "b"))[-1] == ("val/images/1.jpg", -1, "val")
    touch(tmp_path / "c", "train/photo/1.jpg", "train/sketch/2.jpg", "test/photo/3.jpg")
    assert plain(read_manifest(tmp_path / "c"))[-1] == ("test/photo/3.jpg", 0, "test")


def test_splits_inside_class_folders_are_said(tmp_path: Path) -> None:
    names = [f"{c}/{s}/1.jpg" for c in ("ant", "bee") for s in ("train", "testing")]
    manifest = read_manifest(touch(tmp_path / "a", *names))
    assert manifest.splits == ("train",)
    (warning,) = manifest.warnings
    assert "hold folders of splits: 'ant', 'bee' those of train, test; all their" in warning
    assert "(test/ant)" in warning
    touch(tmp_path / "b", "road/train/1.jpg", "road/bus/1.jpg", "air/plane/1.jpg")
    assert read_manifest(tmp_path / "b").warnings == ()  # a class may be called train


def test_a_source_called_like_a_split_is_said(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{folder}/{image}" for folder in ("train", "test") for image in IMAGES))
    alone = read_manifest(tmp_path / "test")
    assert alone.splits == ("train",)
    assert "has the name of a split, but its rows are taken as 'train'" in alone.warnings[0]
    assert read_manifest(tmp_path / "train").warnings == ()
    assert read_manifest(tmp_path).splits == ("train", "test")  # the remedy


def test_lists_whose_names_tell_no_split_are_said(tmp_path: Path) -> None:
    for name in ("train", "trainset2", "trainval", "eval"):
        write(tmp_path / f"{name}.txt", f"x/{name}.jpg 0\n")
    (tmp_path / "trainset2.txt").rename(tmp_path / "testset.txt")
    manifest = read_manifest(tmp_path)
    assert manifest.splits == ("train", "test")
    assert any(text.startswith("eval.txt, trainval.txt: left out") for text in manifest.warnings)
    write(tmp_path / "t" / "train.csv", "path,label\na.jpg,0\n")
    write(tmp_path / "t" / "holdout.csv", "path,label\nb.jpg,0\n")
    assert "holdout.csv: left out" in read_manifest(tmp_path / "t").warnings[-1]


def test_fold_numbers_of_a_table_are_names(tmp_path: Path) -> None:
    text = "path,label,split\na.jpg,0,0\nb.jpg,1,1\n"
    lines = '{"path": "a.jpg", "label": 0, "split": 0}\n{"path": "b.jpg", "label": 1, "split": 1}\n'
    for file in (write(tmp_path / "f.csv", text), write(tmp_path / "f.jsonl", lines)):
        assert read_manifest(file).splits == ("0", "1")


@pytest.mark.parametrize(
    ("files", "chosen", "remedy"),
    [
        (("P_LT_train.txt", "P_LT_val.txt", "P_LT_test.txt"), 0, "P_LT"),
        (("train.csv", "valid.csv"), 1, ""),
        (("train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"), 0, ""),
    ],
)
def test_lists_left_beside_one_are_said(
    tmp_path: Path, files: tuple[str, ...], chosen: int, remedy: str
) -> None:
    for name in files:
        record = f'{{"path": "x/{name}.jpg", "label": 0}}\n'
        table = {".txt": f"x/{name}.jpg 0\n", ".csv": f"path,label\nx/{name}.jpg,0\n"}
        write(tmp_path / name, table.get(Path(name).suffix, record))
    write(tmp_path / "Other_test.txt", "x/other.jpg 0\n")
    (tmp_path / "classes.txt").write_text("x\n")
    alone = read_manifest(tmp_path / files[chosen])
    assert len(alone) == 1
    others = ", ".join(sorted(name for name in files if name != files[chosen]))
    said = f"{files[chosen]} alone is read; {others} beside it belong(s) to it: give "
    assert f"{said}{tmp_path / remedy} to take all of them" in alone.warnings
    (tmp_path / "Other_test.txt").unlink()
    together = read_manifest(tmp_path / remedy)
    assert len(together) == len(files)
    assert not any("alone is read" in text for text in together.warnings)
