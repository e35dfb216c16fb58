"""Manifest directories: the card, the digests, descriptions, and the packaged ones."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from ltcache.errors import ManifestError
from ltcache.manifest import (
    DEFAULT_TEMPLATES,
    packaged_manifests,
    packaged_names,
    read_manifest,
)
from ltcache.manifest import packaged as packaged_module
from tests.manifest.helpers import manifest_dir, plain, write, zip_of

CLASSES = "label,name,source_id\n0,red fox,n1\n1,crow,\n"
TRAIN = "path,label,unit\nv/a b.webp,0,u1\nv/c.webp,1,u2\n"
TEST = "path,label,unit\nv/d.webp,1,u3\n"


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def small(path: Path, **card: Any) -> Path:
    """Make a manifest directory of two classes; ``card`` adds to dataset.json."""
    known = {"name": "small", "title": "Small", "licence": "MIT"}
    files = {"classes_csv": CLASSES, "train_csv": TRAIN, "test_csv": TEST}
    return manifest_dir(path, {**known, **card}, **files)


def test_a_full_directory(tmp_path: Path) -> None:
    templates = ["a drawing of {}.", "{c}"]
    digests = {"train.csv": sha(TRAIN), "classes.csv": sha(CLASSES).upper()}
    path = small(
        tmp_path / "x", templates=templates, groups={"few_below": 5}, sha256=digests, extra=[1]
    )
    write(path / "descriptions.json", json.dumps({"1": ["black bird", "Krähe"]}))
    manifest = read_manifest(path)
    assert (manifest.name, manifest.splits) == ("small", ("train", "test"))
    assert manifest.classes.source_ids == ("n1", None)
    assert manifest.templates == tuple(templates)
    assert manifest.groups == {"few_below": 5}
    assert manifest.descriptions == {1: ("black bird", "Krähe")}
    assert manifest.card == {"title": "Small", "licence": "MIT", "extra": [1]}
    assert manifest.rows["unit"].to_pylist() == ["u1", "u2", "u3"]
    assert manifest.root == path


def test_defaults(tmp_path: Path) -> None:
    path = manifest_dir(tmp_path / "bare", {}, classes_csv=CLASSES, train_csv=TRAIN)
    manifest = read_manifest(path / "dataset.json")
    assert (manifest.name, manifest.templates) == ("bare", DEFAULT_TEMPLATES)
    assert (manifest.groups, manifest.descriptions) == (None, None)


def test_names_in_classes_csv_stay_as_they_are(tmp_path: Path) -> None:
    classes = "label,name\n0,x_y-outdoor\n1,b\n"
    path = manifest_dir(tmp_path / "x", {}, classes_csv=classes, train_csv=TRAIN)
    assert read_manifest(path).classes.names == ("x_y-outdoor", "b")


@pytest.mark.parametrize("images", ["images.zip", "../shared/images.zip", "pictures"])
def test_images_beside_or_inside(tmp_path: Path, images: str) -> None:
    path = small(tmp_path / "x", images=images)
    root = read_manifest(path).root
    assert root is not None
    assert root.resolve() == (path / images).resolve()
    other = tmp_path / "elsewhere"
    other.mkdir()
    assert read_manifest(path, root=other).root == other


@pytest.mark.parametrize("images", ["/abs", "../../x", "a/../../x", "C:/x", "", 3, "..\\..\\x"])
def test_images_that_leave_the_neighbourhood(tmp_path: Path, images: Any) -> None:
    with pytest.raises(ManifestError, match="'images'"):
        read_manifest(small(tmp_path / "x", images=images))


@pytest.mark.parametrize(
    "file", ["../train.csv", "/etc/passwd", "a/../../b.csv", "..\\b.csv", "\0"]
)
def test_lists_stay_in_the_directory(tmp_path: Path, file: str) -> None:
    with pytest.raises(ManifestError, match="not a file in the directory"):
        read_manifest(small(tmp_path / "x", lists={"train": file}))
    with pytest.raises(ManifestError, match="not a file in the directory"):
        read_manifest(small(tmp_path / "x", sha256={file: "0" * 64}))


def test_a_changed_list_is_refused(tmp_path: Path) -> None:
    path = small(tmp_path / "x", sha256={"train.csv": sha(TRAIN)})
    assert len(read_manifest(path)) == 3
    write(path / "train.csv", TRAIN + "v/e.webp,1,u\n")
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    for part in ("train.csv", sha(TRAIN), sha(TRAIN + "v/e.webp,1,u\n")):
        assert part in str(caught.value)


@pytest.mark.parametrize("key", ["images.zip", "../images.zip"])
def test_the_archive_is_verified_only_when_asked(tmp_path: Path, key: str) -> None:
    zip_of(tmp_path / "images.zip", "v/c.webp")
    path = small(tmp_path / "x", images="../images.zip", sha256={key: "0" * 64})
    assert len(read_manifest(path)) == 3
    with pytest.raises(ManifestError, match="images.zip: SHA-256 differs"):
        read_manifest(path, verify_images=True)


def test_other_lists_and_forms(tmp_path: Path) -> None:
    path = small(tmp_path / "x", lists={"train": "train.csv", "validation": "more.txt"})
    write(path / "more.txt", "v/x y.webp 1\n")
    assert plain(read_manifest(path))[-1] == ("v/x y.webp", 1, "val")


def test_unlabelled_pool(tmp_path: Path) -> None:
    card = {"name": "pool", "lists": {"pool": "pool.csv"}}
    path = manifest_dir(tmp_path / "x", card, pool_csv="path\n1.webp\n2.webp\n")
    manifest = read_manifest(path)
    assert plain(manifest) == [("1.webp", -1, "pool"), ("2.webp", -1, "pool")]
    assert (manifest.num_classes, manifest.warnings) == (0, ())


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ([], "expected an object"),
        ({"name": 3}, "'name' must be a text"),
        ({"templates": "a {}"}, "'templates' must be a list of texts"),
        ({"templates": ["a photo"]}, "has no '{}'"),
        ({"groups": [1]}, "'groups' must be an object"),
        ({"lists": ["train.csv"]}, "'lists' must be"),
        ({"lists": {"train": "absent.csv"}}, "absent.csv: cannot be read"),
        ({"lists": {"train": "dataset.json"}}, "the list 'dataset.json' is none of"),
        ({"lists": {"a/b": "train.csv"}}, "the split 'a/b'"),
        ({"sha256": "abc"}, "'sha256' must be"),
        ({"sha256": {"train.csv": "abc"}}, "not 64 hex digits"),
        ({"sha256": {"absent.csv": "0" * 64}}, "absent.csv: cannot be read"),
        ({"title": "\ud800"}, "not Unicode"),
    ],
)
def test_bad_cards(tmp_path: Path, card: Any, message: str) -> None:
    path = small(tmp_path / "x")
    write(path / "dataset.json", json.dumps(card))
    with pytest.raises(ManifestError, match=message):
        read_manifest(path)


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"2": ["x"]}, "'2' is no label of the 2 classes"),
        ({"fox": ["x"]}, "'fox' is no label"),
        ({"0": []}, "label 0 needs a list of sentences"),
        ({"0": "x"}, "label 0 needs a list of sentences"),
        (["x"], "expected {label: "),
    ],
)
def test_bad_descriptions(tmp_path: Path, described: Any, message: str) -> None:
    path = small(tmp_path / "x")
    write(path / "descriptions.json", json.dumps(described))
    with pytest.raises(ManifestError, match=message):
        read_manifest(path)


def test_labels_need_classes_and_lists_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="classes.csv is missing, but .*train.csv has labels"):
        read_manifest(manifest_dir(tmp_path / "x", {}, train_csv=TRAIN))
    with pytest.raises(ManifestError, match="none of train.csv, val.csv, test.csv"):
        read_manifest(manifest_dir(tmp_path / "y", {}, classes_csv=CLASSES))


def test_packaged_names_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged_module, "packaged_manifests", lambda: tmp_path)
    small(tmp_path / "emoji_lt")
    small(tmp_path / "emoji_lt" / "two_class", name="two")
    assert packaged_names() == ("emoji_lt", "emoji_lt/two_class")
    assert read_manifest("emoji_lt").name == "small"
    assert read_manifest("emoji_lt/two_class").name == "two"
    with pytest.raises(ManifestError, match="did you mean 'emoji_lt'"):
        read_manifest("emojilt")
    with pytest.raises(ManifestError, match="neither a file or folder nor a packaged"):
        read_manifest("../emoji_lt/absent")


@pytest.mark.parametrize("name", packaged_names())
def test_every_packaged_manifest_reads(name: str) -> None:
    manifest = read_manifest(name)
    assert (packaged_manifests() / name / "dataset.json").is_file()
    assert len(manifest) > 0
    assert manifest.root is not None


def test_images_may_lie_in_the_directory_itself(tmp_path: Path) -> None:
    small(tmp_path / "x", images=".")
    assert read_manifest(tmp_path / "x").root == tmp_path / "x"
