"""Caches as datasets of Hugging Face: what ``load_from_disk`` reads is what the cache holds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltcache.cache import Cache, open_cache
from ltcache.cli import main
from ltcache.encoder import load_encoder
from ltcache.errors import UsageError
from ltcache.extract import extract
from ltcache.manifest import ClassList
from ltcache.transfer import dataset, export_dataset, import_features
from tests.conftest import write_images

datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def cache(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    root = tmp_path_factory.mktemp("images")
    for split, counts in {"train": (9, 4), "test": (3, 3)}.items():
        write_images(root / split, dict(zip(("red fox", "moth"), counts, strict=True)))
    (root / "train" / "moth" / "bad.png").write_text("no image")
    out = tmp_path_factory.mktemp("dataset") / "cache"
    extract(root, out, encoder=load_encoder(f"local-dir:{tiny_clip}"), shard_size=5)
    return open_cache(out)


def test_a_dataset_holds_what_the_cache_holds(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "_BLOCK", 4)  # several blocks in a split
    report = export_dataset(cache, tmp_path / "data")
    loaded = datasets.load_from_disk(str(tmp_path / "data"))
    assert list(loaded) == list(cache.splits) == ["train", "test"]
    assert loaded["train"].features["label"].names == list(cache.classes.names)
    table = cache.manifest.rows
    for split in cache.splits:
        rows = cache.manifest.indices(split)
        part = loaded[split].with_format("numpy")
        assert len(part) == len(rows)
        assert part[:]["label"].tolist() == cache.manifest.labels(split).tolist()
        for name in ("key", "uri", "split", "status", "error", "sha256"):
            assert loaded[split][:][name] == table[name].take(rows).to_pylist()
        for name in ("embedding", "pooled"):
            expected = cache.row_features(rows, name)[:, 0]
            assert part.features[name].feature.dtype == "float16"
            assert np.array_equal(part[:][name], expected, equal_nan=True)
    assert sum(map(len, loaded.values())) == report.rows == 20
    record = json.loads((tmp_path / "data" / "ltcache.json").read_text())
    assert record["encoder"]["identity"] == cache.encoder
    assert record["prompts"]["default"] == dict(cache.prompts().identity)
    card = (tmp_path / "data" / "README.md").read_text()
    assert cache.encoder["towers"]["image"] in card and "20 rows in train, test" in card
    assert {p.name for p in tmp_path.iterdir()} == {"data"}
    names = {p.name for p in (tmp_path / "data").iterdir()}
    assert names == {"train", "test", "dataset_dict.json", "ltcache.json", "README.md"}


def test_the_card_teaches_what_works(cache: Cache, tmp_path: Path) -> None:
    export_dataset(cache, tmp_path / "data")
    card = (tmp_path / "data" / "README.md").read_text()
    code = card.partition("```python\n")[2].partition("```")[0]
    found: dict[str, Any] = {}
    exec(code.replace("FOLDER", str(tmp_path / "data")), found)
    assert np.array_equal(found["x"].astype(np.float32), cache.features("train")[:, 0])
    assert np.array_equal(found["y"], cache.labels("train"))


def test_crops_unlabelled_rows_and_large_values(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(6, 2, 4)).astype(np.float32)
    features[5] *= 1e6
    np.save(tmp_path / "f.npy", features)
    labels = np.array([0, 1, -1, 0, 1, -1])
    import_features(tmp_path / "f.npy", tmp_path / "cache", labels=labels, classes=["a", "a"])
    cache = open_cache(tmp_path / "cache")
    export_dataset(cache, tmp_path / "data")
    loaded = datasets.load_from_disk(str(tmp_path / "data"))["train"].with_format("numpy")
    assert loaded[:]["embedding"].shape == (6, 2, 4)
    assert np.array_equal(loaded[:]["embedding"], cache.row_features(np.arange(6)))
    assert loaded[:]["label"].tolist() == labels.tolist()
    assert loaded.features["label"].names == ["a (0)", "a (1)"]
    assert "`a` is `a (0)`" in (tmp_path / "data" / "README.md").read_text()


def test_repeated_class_names_become_unique() -> None:
    classes = ClassList(("missile", "missile", "fox"), ("n0377", "n0416", None))
    assert dataset.unique_names(classes) == ["missile (n0377)", "missile (n0416)", "fox"]
    unlucky = ClassList(("a", "a", "a (0)"))
    assert len(set(dataset.unique_names(unlucky))) == 3


def test_refusals_leave_nothing(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(UsageError, match="exists already"):
        export_dataset(cache, tmp_path / "there")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install '\.\[hf\]'"):
        export_dataset(cache, tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_the_command(cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", str(cache.path), "--format", "hf", "--out", str(tmp_path / "data")]
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--json"])
    out, err = capsys.readouterr()
    assert not caught.value.code and not err
    assert "train/state.json" in json.loads(out)["files"]
    assert len(datasets.load_from_disk(str(tmp_path / "data"))["test"]) == 6
