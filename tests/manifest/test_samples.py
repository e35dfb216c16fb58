"""Files beside the images of tar shards: no label is lost without a word."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from ltcache.errors import ManifestError
from ltcache.images import open_store
from ltcache.manifest import Manifest, missing_files, read_manifest
from tests.images.test_stores import tar_of
from tests.manifest.helpers import plain

Members = Mapping[str, bytes]


def read(path: Path, members: Members) -> Manifest:
    return read_manifest(tar_of(path, members.items()))


def labels(manifest: Manifest) -> dict[str, str | None]:
    names = [*manifest.classes.names, None]
    return {uri.partition("/")[2]: names[label] for uri, label, _ in plain(manifest)}


def test_names_with_dots_are_cut_where_the_files_beside_them_fit(tmp_path: Path) -> None:
    dotted = {"IMG.2020.01": b"ant", "IMG.2020.02": b"bee", "IMG.2021.01": b"ant", "x": b"bee"}
    members = {f"{k}.jpg": b"i" for k in dotted} | {f"{k}.cls": v for k, v in dotted.items()}
    manifest = read(tmp_path / "train.tar", members)
    assert labels(manifest) == {f"{k}.jpg": v.decode() for k, v in dotted.items()}
    assert [w for w in manifest.warnings if "hold dots: they are cut at the last" in w]


def test_views_of_a_sample_share_its_label(tmp_path: Path) -> None:
    members = {"0.left.jpg": b"l", "0.right.png": b"r", "0.cls": b"ant", "1.jpg": b"1"}
    manifest = read(tmp_path / "train.tar", members | {"1.cls": b"bee"})
    assert labels(manifest) == {"0.left.jpg": "ant", "0.right.png": "ant", "1.jpg": "bee"}
    assert manifest.warnings == ()


def test_labels_without_image_and_images_without_label_are_named(tmp_path: Path) -> None:
    members = {"0.jpg": b"0", "0.cls": b"ant", "1.jpg": b"1", "2.cls": b"bee", "a.npy": b"x"}
    manifest = read(tmp_path / "train.tar", members)
    assert labels(manifest) == {"0.jpg": "ant", "1.jpg": None}
    for said in (
        "1 file(s) are not images: a.npy",
        "1 file(s) with labels or texts belong to no image: 2.cls",
        "1 image(s) have no label in a file beside them: train.tar/1.jpg",
    ):
        assert said in manifest.warnings


def test_a_text_that_belongs_to_no_image_leaves_class_folders_alone(tmp_path: Path) -> None:
    members = {"readme.txt": b"about", "ant/1.jpg": b"1", "bee/2.jpg": b"2", "ant/._1.jpg": b"m"}
    manifest = read(tmp_path / "train.tar", members)
    assert plain(manifest) == [("ant/1.jpg", 0, "train"), ("bee/2.jpg", 1, "train")]
    assert "1 file(s) are not images: readme.txt" in manifest.warnings


def test_captions_in_folders_say_that_folders_are_no_classes(tmp_path: Path) -> None:
    members = {"ant/1.jpg": b"1", "ant/1.txt": b"an ant", "bee/2.jpg": b"2", "bee/2.txt": b"a bee"}
    manifest = read(tmp_path / "web.tar", members)
    assert manifest.labels().tolist() == [-1, -1]
    assert manifest.rows["caption"].to_pylist() == ["an ant", "a bee"]
    assert any("the folders in their names are no classes" in w for w in manifest.warnings)


def test_one_name_in_several_shards_keeps_all_classes(tmp_path: Path) -> None:
    one = {"ant/1.jpg": b"first", "bee/1.jpg": b"bee"}
    two = {"ant/1.jpg": b"second", "cat/1.jpg": b"cat"}
    paths = [tar_of(tmp_path / f"{k}.tar", m.items()) for k, m in enumerate((one, two))]
    manifest = read_manifest(paths)
    assert plain(manifest) == [
        ("0.tar/ant/1.jpg", 0, "train"),
        ("1.tar/ant/1.jpg", 0, "train"),
        ("bee/1.jpg", 1, "train"),
        ("cat/1.jpg", 2, "train"),
    ]
    store = open_store(manifest.root)
    content = [store.read(uri) for uri, _, _ in plain(manifest)]
    assert content == [b"first", b"second", b"bee", b"cat"] and not missing_files(manifest)
    assert any("taken as SHARD/NAME: ant/1.jpg" in warning for warning in manifest.warnings)


@pytest.mark.parametrize("test_name", ["ant/2.jpg", "ant/1.jpg"])
def test_names_of_shards_of_class_folders_tell_the_split(tmp_path: Path, test_name: str) -> None:
    members = {"train-0": ["ant/1.jpg", "bee/1.jpg"], "train-1": ["cat/1.jpg"], "test": [test_name]}
    paths = [tar_of(tmp_path / f"{k}.tar", [(n, b"i") for n in m]) for k, m in members.items()]
    manifest = read_manifest(paths)
    splits = [(uri.rpartition("tar/")[2], split) for uri, _, split in plain(manifest)]
    assert sorted(splits) == sorted(
        [(n, k.partition("-")[0]) for k, names in members.items() for n in names]
    )
    alone = read_manifest(paths[-1])
    assert plain(alone) == [(test_name, 0, "test")]
    assert not any("taken as 'train'" in warning for warning in alone.warnings)


def test_folders_in_shards_tell_the_split_before_their_names(tmp_path: Path) -> None:
    members = [("train/ant/1.jpg", b"i"), ("val/ant/2.jpg", b"i")]
    assert plain(read_manifest(tar_of(tmp_path / "test.tar", members))) == [
        ("train/ant/1.jpg", 0, "train"),
        ("val/ant/2.jpg", 0, "val"),
    ]


def test_a_member_that_comes_again_leaves_the_others_their_labels(tmp_path: Path) -> None:
    members = [("0.jpg", b"0"), ("0.cls", b"ant"), ("1.jpg", b"1"), ("1.cls", b"bee")]
    path = tar_of(tmp_path / "train.tar", [*members, ("0.jpg", b"again"), ("0.cls", b"cat")])
    manifest = read_manifest(path)
    assert labels(manifest) == {"0.jpg": "cat", "1.jpg": "bee"}
    assert open_store(manifest.root).read("train.tar/0.jpg") == b"again"
    assert "2 member(s) come more than once, and the last counts: 0.jpg, 0.cls" in manifest.warnings


def test_labels_in_json(tmp_path: Path) -> None:
    members = {"0.jpg": b"0", "0.json": b'{"Label": "ant"}', "1.jpg": b"1"}
    bom = b"\xef\xbb\xbf"
    manifest = read(tmp_path / "train.tar", members | {"1.cls": bom + b"ant"})
    assert labels(manifest) == {"0.jpg": "ant", "1.jpg": "ant"}
    several = {"0.jpg": b"0", "0.json": b'{"label": [1, 2]}'}
    with pytest.raises(ManifestError, match=r"0\.json.*its label is a list.*--unlabelled"):
        read(tmp_path / "many.tar", several)
    assert read_manifest(tmp_path / "many.tar", labelled=False).labels().tolist() == [-1]


def test_a_tar_named_without_its_folder_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "birds").mkdir()
    monkeypatch.chdir(tmp_path / "birds")
    tar_of(Path("train.tar"), [("0.jpg", b"0"), ("0.cls", b"ant")])
    assert read_manifest("train.tar").name == "birds"
