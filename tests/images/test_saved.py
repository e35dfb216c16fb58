"""Datasets saved by Hugging Face's ``datasets``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ltcache.errors import ImageError, ManifestError
from ltcache.images import open_store
from ltcache.manifest import missing_files, read_manifest
from ltcache.manifest.saved import saved_splits
from tests.images.test_stores import LABELS, NAMES, PNGS, contents
from tests.manifest.helpers import plain

datasets = pytest.importorskip("datasets")


def dataset(rows: list[int]):
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=NAMES),
            "note": datasets.Value("string"),
        }
    )
    columns = {
        "image": [{"bytes": PNGS[row], "path": None} for row in rows],
        "label": [LABELS[row] for row in rows],
        "note": [f"n{row}" for row in rows],
    }
    return datasets.Dataset.from_dict(columns, features=features)


def test_splits_labels_and_images(tmp_path: Path) -> None:
    both = datasets.DatasetDict(train=dataset([0, 1, 2, 3]), validation=dataset([4, 5]))
    both.save_to_disk(str(tmp_path / "birds"))
    manifest = read_manifest(tmp_path / "birds")
    assert plain(manifest)[0] == ("train/0", 1, "train")
    assert plain(manifest)[-1] == ("validation/1", 0, "val")
    assert manifest.classes.names == tuple(NAMES) and manifest.name == "birds"
    assert manifest.rows["note"].to_pylist() == [f"n{row}" for row in range(6)]
    assert contents(manifest) == PNGS and missing_files(manifest).count == 0
    assert str(tmp_path) not in json.dumps(manifest.header())
    store = open_store(tmp_path / "birds")
    for bad in ("train/4", "val/0", "train/x", "0", "../train/0"):
        with pytest.raises(ImageError):
            store.read(bad)


def test_one_dataset_in_another_order(tmp_path: Path) -> None:
    dataset([0, 1, 2, 3, 4, 5]).select([5, 0, 3]).save_to_disk(str(tmp_path / "some"))
    manifest = read_manifest(tmp_path / "some")
    assert contents(manifest) == [PNGS[5], PNGS[0], PNGS[3]]
    assert manifest.labels().tolist() == [LABELS[5], LABELS[0], LABELS[3]]


def named_otherwise(**columns: list[str]):
    """A saved dataset with class labels in columns of other names; rows are 1, 0."""
    labels = {name: datasets.ClassLabel(names=names) for name, names in columns.items()}
    values = {"image": [{"bytes": PNGS[row], "path": None} for row in (0, 1)]}
    return datasets.Dataset.from_dict(
        values | {name: [1, 0] for name in columns},
        features=datasets.Features({"image": datasets.Image(), **labels}),
    )


def test_class_labels_that_are_not_called_label(tmp_path: Path) -> None:
    named_otherwise(Breed=["pug", "husky"]).save_to_disk(str(tmp_path / "one"))
    manifest = read_manifest(tmp_path / "one")
    assert manifest.classes.names == ("pug", "husky") and manifest.labels().tolist() == [1, 0]
    two = named_otherwise(fine=["pug", "husky"], coarse=["dog", "cat"])
    two.save_to_disk(str(tmp_path / "two"))
    with pytest.raises(ManifestError, match=r"hold class labels \(fine, coarse\); choose one"):
        read_manifest(tmp_path / "two")
    assert read_manifest(tmp_path / "two", label_column="coarse").classes.names == ("dog", "cat")


def test_splits_that_name_their_classes_differently_are_refused(tmp_path: Path) -> None:
    both = datasets.DatasetDict(
        train=named_otherwise(label=["cat", "dog"]), test=named_otherwise(label=["dog", "cat"])
    )
    both.save_to_disk(str(tmp_path / "both"))
    with pytest.raises(ManifestError, match="name their classes differently: label 0 is 'cat'"):
        read_manifest(tmp_path / "both")


def test_without_the_library_and_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset([0, 1]).save_to_disk(str(tmp_path / "one"))
    arrow = next((tmp_path / "one").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:50])
    with pytest.raises(ManifestError, match="cannot be read as a saved dataset"):
        read_manifest(tmp_path / "one")
    (tmp_path / "one" / "state.json").write_text("{")
    with pytest.raises(ManifestError, match="cannot be read as a saved dataset"):
        read_manifest(tmp_path / "one")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ManifestError, match=r"pip install '\.\[hf\]'"):
        read_manifest(tmp_path / "one")


def test_a_dataset_without_images(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path / "texts"))
    with pytest.raises(ManifestError, match="no column of images among text"):
        read_manifest(tmp_path / "texts")
    assert list(saved_splits(tmp_path / "texts")) == ["train"]
