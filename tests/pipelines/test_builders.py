"""Builders of the field's datasets, on small inputs of the published shapes."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ltcache.errors import ManifestError
from ltcache.images import open_store
from ltcache.manifest import missing_files, packaged_manifests, packaged_names, read_manifest
from pipelines import build_cifar100_lt as cifar
from pipelines import build_imagenet_lt as imagenet
from pipelines import build_inaturalist18 as inaturalist
from pipelines import build_places_lt as places
from tests.manifest.helpers import plain, touch, write

CARDS = ("imagenet_lt", "places_lt", "inaturalist18", "cifar100_lt")


@pytest.mark.parametrize("name", CARDS)
def test_cards_say_how_to_get_their_lists(name: str) -> None:
    card = json.loads((packaged_manifests() / name / "dataset.json").read_text("utf-8"))
    assert {"title", "source", "licence", "templates", "build", "expected"} <= set(card)
    assert name not in packaged_names()
    with pytest.raises(ManifestError, match=rf"{name}: .*python -m pipelines\.build_"):
        read_manifest(name)


@pytest.mark.parametrize(
    ("ratio", "total", "groups"),
    [
        (10, 19_573, (69, 31, 0)),
        (50, 12_608, (41, 41, 18)),
        (100, 10_847, (35, 35, 30)),
        (200, 9_502, (30, 31, 39)),
    ],
)
def test_cifar_counts_are_the_field_s(ratio: int, total: int, groups: tuple[int, ...]) -> None:
    counts = np.array(cifar.class_counts(ratio))
    found = ((counts > 100).sum(), ((counts >= 20) & (counts <= 100)).sum(), (counts < 20).sum())
    assert (counts.sum(), counts[0], len(counts)) == (total, 500, 100)
    assert tuple(found) == groups
    assert cifar.card_of("cifar100_lt")["name"] == "cifar100_lt"
    published = json.loads((packaged_manifests() / "cifar100_lt" / "dataset.json").read_text())
    assert published["expected"]["train"][str(ratio)] == total


def test_cifar_choice_follows_the_legacy_generator() -> None:
    labels = np.tile(np.arange(100, dtype=np.uint8), 500)
    kept = cifar.choose(labels, cifar.class_counts(100))
    np.random.seed(0)
    first = np.flatnonzero(labels == 0)
    np.random.shuffle(first)
    second = np.flatnonzero(labels == 1)
    np.random.shuffle(second)
    assert kept[:500].tolist() == first.tolist()
    assert kept[500:977].tolist() == second[:477].tolist()
    with pytest.raises(ManifestError, match="class 0 has 400 images, 500 are needed"):
        cifar.choose(labels[:40_000], cifar.class_counts(100))


def cifar_files(folder: Path, per_class: int) -> np.ndarray:
    """Write CIFAR-100's binary files; returns the training records."""
    rng = np.random.default_rng(0)
    names = [f"class_{k}" for k in range(100)]
    write(folder / "fine_label_names.txt", "\n".join(names) + "\n")
    for name, count in (("train", per_class), ("test", 1)):
        records = rng.integers(0, 256, (100 * count, 3074), dtype=np.uint8)
        records[:, 0] = 0
        records[:, 1] = rng.permutation(np.repeat(np.arange(100), count))
        write(folder / f"{name}.bin", records.tobytes())
        if name == "train":
            train = records
    return train


def test_cifar_from_its_binary_files(tmp_path: Path) -> None:
    records = cifar_files(tmp_path / "cifar", 20)
    counts = cifar.build(tmp_path / "cifar", 10, tmp_path / "out", most=20)
    manifest = read_manifest(tmp_path / "out", verify_images=True)
    assert counts == {"train": len(manifest.indices("train")), "test": 100}
    assert manifest.class_counts("train").tolist() == cifar.class_counts(10, 20)
    assert manifest.classes.names[7] == "class 7" and manifest.name == "cifar100_lt_10"
    assert missing_files(manifest).count == 0
    store = open_store(manifest.root)
    uri, label, _ = plain(manifest)[-101]
    record = records[int(uri[6:11])]
    assert record[1] == label
    write(tmp_path / "one.png", store.read(uri))
    with Image.open(tmp_path / "one.png") as image:
        assert np.array_equal(np.asarray(image), record[2:].reshape(3, 32, 32).transpose(1, 2, 0))
    cifar.build(tmp_path / "cifar", 10, tmp_path / "again", most=20)
    for file in (tmp_path / "out").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_cifar_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be read"):
        cifar.read_binary(tmp_path / "train.bin")
    for data in (b"", bytes(3073), b"\x00\x64" + bytes(3072)):
        with pytest.raises(ManifestError, match=r"train\.bin: "):
            cifar.read_binary(write(tmp_path / "train.bin", data))


def species() -> list[dict[str, object]]:
    names = ["Vulpes vulpes", "Apis mellifera", "Pica pica", "Bufo bufo"]
    return [
        {"id": k, "name": name, "kingdom": "Animalia", "genus": name.split()[0]}
        for k, name in enumerate(names)
    ]


def annotations(folder: Path, name: str, labels: list[int]) -> None:
    images = [
        {"id": 50 - i, "file_name": f"train_val2018/X/{k}/{name}{i}.jpg"}
        for i, k in enumerate(labels)
    ]
    entries = [{"image_id": 50 - i, "category_id": k} for i, k in reversed([*enumerate(labels)])]
    write(folder / f"{name}2018.json", json.dumps({"images": images, "annotations": entries}))


def test_inaturalist_from_json_and_from_text_agree(tmp_path: Path) -> None:
    train, val = [0, 0, 0, 2, 3, 3], [0, 1, 2, 3]
    for folder in ("json", "text"):
        write(tmp_path / folder / "categories.json", json.dumps(species()[::-1]))
    annotations(tmp_path / "json", "train", train)
    annotations(tmp_path / "json", "val", val)
    for name, labels in (("train", train), ("val", val)):
        lines = [f"train_val2018/X/{k}/{name}{i}.jpg {k}" for i, k in enumerate(labels)]
        write(tmp_path / "text" / f"iNaturalist18_{name}.txt", "\n".join(lines))
    found = []
    for folder in ("json", "text"):
        differing = inaturalist.build(tmp_path / folder, tmp_path / f"out-{folder}")
        assert "inaturalist18: 4 in classes, published: 8142" in differing
        found.append(read_manifest(tmp_path / f"out-{folder}"))
    assert found[0].identity() == found[1].identity()
    manifest = found[0]
    assert manifest.labels("train").tolist() == train and manifest.labels("test").tolist() == val
    assert manifest.classes.names[0] == "Vulpes vulpes"  # the id's order, not the alphabet's
    lines = (tmp_path / "out-json" / "classes.csv").read_text().splitlines()
    assert lines[0].startswith("label,name,source_id,latin_rank,kingdom")
    assert [line.split(",")[3] for line in lines[1:]] == ["3", "0", "2", "1"]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("train2018.json", "{}", "not the annotations"),
        ("train2018.json", '{"images": [{"id": 1, "file_name": "x/1/a.jpg"}], "annotations": '
         '[{"image_id": 1, "category_id": 2}]}', "another folder than category 2"),
        ("categories.json", '[{"id": 1, "name": "a"}]', "the ids are not"),
        ("categories.json", '[{"id": 0, "name": "a"}]', "1 classes, but there is a label 3"),
        ("categories.json", "[1]", "not the categories"),
    ],
)  # fmt: skip
def test_inaturalist_files_that_are_none(
    tmp_path: Path, file: str, text: str, message: str
) -> None:
    write(tmp_path / "categories.json", json.dumps(species()))
    annotations(tmp_path, "train", [0, 1])
    annotations(tmp_path, "val", [3])
    write(tmp_path / file, text)
    with pytest.raises(ManifestError, match=message):
        inaturalist.build(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


EASY = {
    "train": ["train/airfield/1.jpg 0", "train/apartment_building-outdoor/2.jpg 1"],
    "val": ["train/airfield/3.jpg 0"],
    "test": ["val/apartment_building-outdoor/Places365_val_1.jpg 1"],
}
V2 = {
    "train": ["data_256/a/airfield/1.jpg 0", "data_256/a/apartment_building/outdoor/2.jpg 1"],
    "val": ["data_256/a/airfield/3.jpg 0"],
    "test": ["val_256/Places365_val_1.jpg 1"],
}


@pytest.mark.parametrize("lists", [EASY, V2])
@pytest.mark.parametrize(("wanted", "files"), [("easy", EASY), ("v2", V2)])
def test_places_in_both_layouts(tmp_path: Path, lists: dict, wanted: str, files: dict) -> None:
    for part, lines in lists.items():
        write(tmp_path / f"Places_LT_{part}.txt", "\n".join(lines) + "\n")
    touch(tmp_path / "images", *(line.split()[0] for lines in files.values() for line in lines))
    told = places.build(tmp_path, tmp_path / "images", tmp_path / "out")
    assert told[0] == f"layout: {wanted}"
    manifest = read_manifest(tmp_path / "out", root=tmp_path / "images")
    assert [f"{uri} {label}" for uri, label, _ in plain(manifest)] == [
        line for lines in files.values() for line in lines
    ]
    assert manifest.classes.names == ("airfield", "apartment building outdoor")
    assert manifest.classes.source_ids == ("airfield", "apartment_building-outdoor")
    assert missing_files(manifest).count == 0


def test_places_without_images_or_against_itself(tmp_path: Path) -> None:
    for part, lines in EASY.items():
        write(tmp_path / f"Places_LT_{part}.txt", "\n".join(lines) + "\n")
    with pytest.raises(ManifestError, match="none of 4 images is below"):
        places.build(tmp_path, tmp_path / "nowhere", tmp_path / "out")
    write(tmp_path / "Places_LT_val.txt", "train/beach/3.jpg 0\n")
    with pytest.raises(ManifestError, match="label 0 is 'airfield' and"):
        places.build(tmp_path, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flat", [False, True])
def test_imagenet_with_validation_images_sorted_or_flat(tmp_path: Path, flat: bool) -> None:
    lists = {
        "train": ["train/n01440764/n01440764_1.JPEG 0", "train/n01443537/n01443537_2.JPEG 1"],
        "val": ["train/n01440764/n01440764_9.JPEG 0"],
        "test": ["val/n01443537/ILSVRC2012_val_00000002.JPEG 1"],
    }
    for part, lines in lists.items():
        write(tmp_path / f"ImageNet_LT_{part}.txt", "\n".join(lines) + "\n")
    write(tmp_path / "classnames.txt", "n01440764 tench\nn01443537 goldfish\n")
    test = "val/ILSVRC2012_val_00000002.JPEG" if flat else lists["test"][0].split()[0]
    touch(tmp_path / "images", test)
    told = imagenet.build(tmp_path, tmp_path / "images", tmp_path / "out")
    manifest = read_manifest(tmp_path / "out", root=tmp_path / "images")
    assert told[0] == f"layout: {'flat' if flat else 'sorted'}"
    assert plain(manifest)[-1] == (test, 1, "test")
    assert manifest.classes.names == ("tench", "goldfish")
    assert manifest.classes.source_ids == ("n01440764", "n01443537")


def test_a_built_folder_wins_over_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part, lines in EASY.items():
        write(tmp_path / f"Places_LT_{part}.txt", "\n".join(lines) + "\n")
    places.build(tmp_path, None, tmp_path / "places_lt")
    monkeypatch.chdir(tmp_path)
    assert len(read_manifest("places_lt")) == 4


def test_written_archives_hold_no_clock(tmp_path: Path) -> None:
    cifar.write_images(tmp_path / "x.zip", [("a.png", b"x")])
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert archive.getinfo("a.png").date_time == (1980, 1, 1, 0, 0, 0)
