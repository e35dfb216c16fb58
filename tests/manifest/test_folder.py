"""Folders of class folders, splits, archives and unlabelled images."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltcache.errors import ManifestError
from ltcache.manifest import ClassList, missing_files, read_manifest
from tests.manifest.helpers import plain, touch, write, zip_of


def test_class_folders_in_natural_order(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{k}/x.jpg" for k in range(12)))
    manifest = read_manifest(tmp_path)
    assert manifest.classes.names == tuple(str(k) for k in range(12))
    assert plain(manifest) == [(f"{k}/x.jpg", k, "train") for k in range(12)]
    assert any("unlike ImageFolder" in warning for warning in manifest.warnings)
    assert not any("not the labels" in warning for warning in manifest.warnings)


def test_numbers_that_are_not_the_labels_are_warned_of(tmp_path: Path) -> None:
    manifest = read_manifest(touch(tmp_path, "1/x.jpg", "5/x.jpg"))
    assert "class folder numbers are not the labels: 1 = 0, 5 = 1" in manifest.warnings


def test_names_are_readable_and_the_folders_are_kept(tmp_path: Path) -> None:
    manifest = read_manifest(touch(tmp_path, "red_fox/x.jpg", "bazaar-indoor/x.jpg"))
    assert manifest.classes.names == ("bazaar indoor", "red fox")
    assert manifest.classes.source_ids == ("bazaar-indoor", "red_fox")
    assert manifest.card["class_names"] == "readable_name/1"


def test_splits_share_one_class_list(tmp_path: Path) -> None:
    touch(tmp_path, "train/ant/1.jpg", "train/cat/2.JPG", "validation/bee/3.png")
    (tmp_path / "train" / "dog").mkdir()
    manifest = read_manifest(tmp_path)
    assert manifest.classes.names == ("ant", "bee", "cat", "dog")
    assert plain(manifest) == [
        ("train/ant/1.jpg", 0, "train"),
        ("train/cat/2.JPG", 2, "train"),
        ("validation/bee/3.png", 1, "val"),
    ]
    assert manifest.warnings == (
        "2 class(es) have no image in the split 'train': 1 (bee), 3 (dog)",
        "3 class(es) have no image in the split 'val': 0 (ant), 2 (cat), 3 (dog)",
    )


def test_flat_test_folder_and_pool_are_unlabelled(tmp_path: Path) -> None:
    touch(tmp_path, "train/ant/1.jpg", "test/2.jpg", "unlabelled/x/3.jpg")
    assert plain(read_manifest(tmp_path)) == [
        ("train/ant/1.jpg", 0, "train"),
        ("test/2.jpg", -1, "test"),
        ("unlabelled/x/3.jpg", -1, "pool"),
    ]


def test_only_images_count_and_hidden_things_do_not(tmp_path: Path) -> None:
    suffixes = ["jpg", "JPEG", "png", "webp", "bmp", "gif", "tif", "TIFF", "ppm"]
    touch(tmp_path, *(f"ant/{k}.{suffix}" for k, suffix in enumerate(suffixes)))
    touch(tmp_path, "ant/.hidden.jpg", ".git/x/1.jpg", "__MACOSX/ant/1.jpg", "ant/._0.jpg")
    touch(tmp_path, ".gitignore", "ant/deep/down/here.jpg")
    manifest = read_manifest(tmp_path)
    assert manifest.classes.names == ("ant",)
    assert len(manifest) == len(suffixes) + 1
    assert manifest.warnings == ("1 hidden image(s) are left out: ant/.hidden.jpg",)


def test_a_wrapping_folder_is_descended(tmp_path: Path) -> None:
    manifest = read_manifest(touch(tmp_path, "data/photos/ant/1.jpg", "data/photos/bee/2.jpg"))
    assert manifest.classes.names == ("ant", "bee")
    assert manifest.warnings == ("the classes or splits are read below 'data/photos/'",)


def test_loose_images_are_left_out_with_a_warning(tmp_path: Path) -> None:
    manifest = read_manifest(touch(tmp_path, "ant/1.jpg", "bee/1.jpg", "loose.jpg"))
    assert len(manifest) == 2
    assert manifest.warnings == ("1 image(s) beside the class folders are left out: loose.jpg",)
    splits = touch(tmp_path / "s", "train/ant/1.jpg", "loose.jpg")
    assert "1 image(s) beside the splits are left out: loose.jpg" in read_manifest(splits).warnings


def test_a_class_may_be_called_train_but_a_split_must_not_stand_beside_classes(
    tmp_path: Path,
) -> None:
    vehicles = touch(tmp_path / "vehicles", "train/1.jpg", "bus/1.jpg")
    assert read_manifest(vehicles).classes.names == ("bus", "train")
    with pytest.raises(ManifestError, match="'train' looks like a split, but extra"):
        read_manifest(touch(tmp_path / "mixed", "train/ant/1.jpg", "extra/1.jpg"))
    with pytest.raises(ManifestError, match="more than one folder for the split 'val'"):
        read_manifest(touch(tmp_path / "twice", "val/ant/1.jpg", "valid/ant/1.jpg"))


def test_unlabelled_folders(tmp_path: Path) -> None:
    flat = read_manifest(touch(tmp_path / "flat", "b c.jpg", "ä.jpg"))
    assert plain(flat) == [("b c.jpg", -1, "pool"), ("ä.jpg", -1, "pool")]
    assert (flat.num_classes, flat.class_counts("pool").tolist(), flat.card) == (0, [], {})
    deep = read_manifest(touch(tmp_path / "deep", "x/1.jpg", "y/2.jpg"), labelled=False)
    assert plain(deep) == [("x/1.jpg", -1, "pool"), ("y/2.jpg", -1, "pool")]
    with pytest.raises(ManifestError, match="2 of 2 rows have no label"):
        read_manifest(tmp_path / "flat", labelled=True)


def test_archives(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "set.zip", "train/bee/1.jpg", "train/ant/", "test/ant/2.png")
    manifest = read_manifest(path)
    assert (manifest.name, manifest.root) == ("set", path)
    assert plain(manifest) == [("train/bee/1.jpg", 1, "train"), ("test/ant/2.png", 0, "test")]
    assert not missing_files(manifest)


def test_an_archive_named_after_a_split_says_what_helps(tmp_path: Path) -> None:
    (warning,) = read_manifest(zip_of(tmp_path / "test.zip", "ant/1.jpg")).warnings
    assert warning.endswith("put them into a folder test/ in it to take them as 'test'")
    inside = zip_of(tmp_path / "again.zip", "test/ant/1.jpg")
    assert plain(read_manifest(inside)) == [("test/ant/1.jpg", 0, "test")]


@pytest.mark.parametrize(
    ("name", "text", "mended"),
    [
        ("train.csv", "a/1.jpg,1\nb/2.jpg,0\n", "path,label\na/1.jpg,1\nb/2.jpg,0\n"),
        ("all.csv", "photo;kind\na/1.jpg;1\nb/2.jpg;0\n", "path;label\na/1.jpg;1\nb/2.jpg;0\n"),
        ("train.txt", "a/1.jpg,1\nb/2.jpg,0\n", "a/1.jpg 1\nb/2.jpg 0\n"),
    ],
)
def test_a_list_beside_class_folders_that_is_not_read_is_told_of(
    tmp_path: Path, name: str, text: str, mended: str
) -> None:
    root = touch(tmp_path, "a/1.jpg", "b/2.jpg")
    write(root / name, text)
    manifest = read_manifest(root)
    assert manifest.labels().tolist() == [0, 1]
    (told,) = [warning for warning in manifest.warnings if warning.startswith(f"{name}: not read")]
    assert "first line names its columns (path,label)" in told
    write(root / name, mended)
    found = read_manifest(root)
    assert found.labels().tolist() == [1, 0]
    assert not any("not read" in warning for warning in found.warnings)


@pytest.mark.parametrize("text", ["Copyright (c) 2017\n\nAll rights reserved\n", "Birds 525\n"])
def test_a_text_beside_class_folders_is_no_list(tmp_path: Path, text: str) -> None:
    touch(tmp_path, "ant/1.jpg", "bee/2.jpg")
    write(tmp_path / "LICENSE.txt", text)
    assert plain(read_manifest(tmp_path)) == [("ant/1.jpg", 0, "train"), ("bee/2.jpg", 1, "train")]
    write(tmp_path / "LICENSE.txt", "ant/1.jpg 3\n")
    assert plain(read_manifest(tmp_path)) == [("ant/1.jpg", 3, "train")]


def test_given_classes_fix_the_order(tmp_path: Path) -> None:
    touch(tmp_path / "set", "ant/1.jpg", "red_fox/1.jpg")
    names = write(tmp_path / "names.txt", "red fox\nbee\nant\n")
    manifest = read_manifest(tmp_path / "set", classes=names)
    assert plain(manifest) == [("ant/1.jpg", 2, "train"), ("red_fox/1.jpg", 0, "train")]
    with pytest.raises(ManifestError, match=r"'ant' is none of the 2 classes; did you mean 'aunt'"):
        read_manifest(tmp_path / "set", classes=ClassList(("aunt", "red fox")))


def test_links_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "1.jpg")
    touch(tmp_path / "set", "bee/1.jpg")
    (tmp_path / "set" / "ant").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "bee" / "loop").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "bee" / "broken.jpg").symlink_to(tmp_path / "nowhere")
    manifest = read_manifest(tmp_path / "set")
    assert [row[0] for row in plain(manifest)] == ["ant/1.jpg", "bee/1.jpg", "bee/broken.jpg"]
    assert missing_files(manifest).first == ("bee/broken.jpg",)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no images below it"):
        read_manifest(tmp_path)
    with pytest.raises(ManifestError, match="cannot be read as a .zip file"):
        read_manifest(write(tmp_path / "x.zip", "no archive"))


def test_members_that_lead_out_of_the_archive(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="not below the root"):
        read_manifest(zip_of(tmp_path / "evil.zip", "ant/../../1.jpg", "ant/2.jpg"))


def test_unicode_forms_of_one_name_are_one_class(tmp_path: Path) -> None:
    nfc, nfd = "Caf\u00e9", "Cafe\u0301"
    touch(tmp_path, f"train/{nfc}/1.jpg", f"train/{nfd}/2.jpg", "train/bar/3.jpg")
    touch(tmp_path, f"test/{nfd}/1.jpg")
    manifest = read_manifest(tmp_path)
    assert manifest.classes.names == (nfc, "bar") and manifest.classes.source_ids == (nfc, "bar")
    assert sorted(plain(manifest)) == sorted(
        [
            (f"train/{nfc}/1.jpg", 0, "train"),  # paths stay as they are on the disk
            (f"train/{nfd}/2.jpg", 0, "train"),
            ("train/bar/3.jpg", 1, "train"),
            (f"test/{nfd}/1.jpg", 0, "test"),
        ]
    )
    assert manifest.warnings[0] == (
        f"the class {nfc!r} is written in 2 Unicode forms ('Cafe\\u0301', 'Caf\\xe9'); "
        "they are taken as one class"
    )
    assert not missing_files(manifest)


def test_class_ids_in_another_unicode_form_than_the_folders(tmp_path: Path) -> None:
    touch(tmp_path / "images", "Cafe\u0301/1.jpg", "bar/1.jpg")
    names = write(tmp_path / "names.txt", "bar a place\nCaf\u00e9 another place\n")
    manifest = read_manifest(tmp_path / "images", classes=names)
    assert manifest.classes.names == ("a place", "another place")
    assert sorted(plain(manifest))[0] == ("Cafe\u0301/1.jpg", 1, "train")


@pytest.mark.parametrize(
    ("folders", "remedy"),
    [
        (("images", "masks"), "give .*/images[.]"),
        (("Images", "Annotations"), "give .*/Images[.]"),
        (("images", "ground-truth", "instance_masks"), "give .*/images[.]"),
        (("JPEGImages", "SegmentationClass", "SegmentationObject"), "give .*/JPEGImages[.]"),
        (("train/images", "train/labels", "val/images"), "move labels away[.]"),
        (("images/cat", "images/dog", "masks/cat", "masks/dog"), "give .*/images[.]"),
    ],
)
def test_images_beside_masks_are_no_classes(
    tmp_path: Path, folders: tuple[str, ...], remedy: str
) -> None:
    root = touch(tmp_path / "all", *(f"{name}/1.png" for name in folders))
    with pytest.raises(ManifestError, match=f"look like images and what belongs.*{remedy}"):
        read_manifest(root)
    if "give" in remedy:
        inside = read_manifest(next(path for path in root.iterdir() if "mage" in path.name))
        assert inside.classes.names == (("cat", "dog") if "/" in folders[0] else ())
    archive = zip_of(tmp_path / "all.zip", *(f"{name}/1.png" for name in folders))
    with pytest.raises(ManifestError, match="look like images and.* away[.]"):
        read_manifest(archive)
    names = dict.fromkeys(name.removeprefix("train/").removeprefix("val/").split("/")[0]
                          for name in folders)  # fmt: skip
    asked = write(tmp_path / "names.txt", "\n".join(sorted(names)))
    assert len(read_manifest(root, classes=asked).classes) == len(names)


def test_a_pool_tells_of_masks_among_its_images(tmp_path: Path) -> None:
    root = touch(tmp_path, "images/1.png", "masks/1.png", "others/1.png")
    pool = read_manifest(root, labelled=False)
    assert len(pool.rows) == 3
    (note,) = [text for text in pool.warnings if "masks" in text]
    assert note.startswith("the folder(s) masks look like what belongs to the images in images")
    alone = read_manifest(touch(tmp_path / "alone", "a/masks/1.png", "b/1.png"), labelled=False)
    assert not [text for text in alone.warnings if "masks" in text]


@pytest.mark.parametrize(
    "folders",
    [("masks", "gloves", "images"), ("masks", "no_masks"), ("masks", "labels"), ("photos", "data")],
)
def test_classes_may_be_called_masks(tmp_path: Path, folders: tuple[str, ...]) -> None:
    root = touch(tmp_path, *(f"{name}/1.png" for name in folders))
    assert set(read_manifest(root).classes.source_ids) <= {*folders, None}
    assert len(read_manifest(root).classes) == len(folders)


@pytest.mark.parametrize("beside", ["labels/1.txt", "labels.yaml"])
def test_images_in_one_folder_that_is_no_class_by_its_name_are_unlabelled(
    tmp_path: Path, beside: str
) -> None:
    manifest = read_manifest(touch(tmp_path, "images/1.jpg", "images/2.jpg", beside))
    assert plain(manifest) == [("images/1.jpg", -1, "pool"), ("images/2.jpg", -1, "pool")]
    assert any("'images/' is no class by its name" in text for text in manifest.warnings)
    assert len(read_manifest(touch(tmp_path / "other", "cat/1.jpg")).classes) == 1
