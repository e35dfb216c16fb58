"""A cache is divided by what its images are: copies stay together, new images join the others."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltcache.cache import Cache, open_cache, verify_files
from ltcache.encoder import Encoder, load_encoder
from ltcache.errors import UsageError
from ltcache.extract import extract, split_cache
from ltcache.manifest import ClassList, Manifest, SplitRecipe, recipe_of
from ltcache.transfer import import_features
from tests.conftest import write_images

RECIPE = SplitRecipe({"test": 0.2, "val": 0.1})


@pytest.fixture(scope="module")
def encoder(tiny_clip: Path) -> Encoder:
    return load_encoder(f"local-dir:{tiny_clip}")


def write_rows(
    out: Path, features: np.ndarray, labels: np.ndarray, order: np.ndarray, **columns: list[str]
) -> Cache:
    """Import features as a cache whose rows stand in some order."""
    keys = [f"{row}.png" for row in range(len(labels))]
    table = pa.table(
        {
            "row_id": np.arange(len(order)),
            "key": [keys[row] for row in order],
            "uri": [keys[row] for row in order],
            "label": labels[order].astype(np.int64),
            "split": ["train"] * len(order),
            **{name: [values[row] for row in order] for name, values in columns.items()},
        }
    )
    shutil.rmtree(out, ignore_errors=True)
    np.savez(out.with_suffix(".npz"), features=features[order].astype(np.float32))
    names = ClassList(tuple(f"class {c}" for c in range(int(labels.max()) + 1)))
    import_features(out.with_suffix(".npz"), out, manifest=Manifest("zoo", table, names))
    return open_cache(out)


def splits_of(cache: Cache | Path) -> dict[str, str]:
    """Return key -> split."""
    path = cache if isinstance(cache, Path) else cache.path
    rows = open_cache(path).manifest.rows
    return dict(zip(rows["key"].to_pylist(), rows["split"].to_pylist(), strict=True))


@settings(max_examples=8)
@given(seed=st.integers(0, 999))
def test_order_changes_nothing_and_near_duplicates_stay_together(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    work, rng = tmp_path_factory.mktemp("order"), np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], [40, 12, 5])
    features = rng.normal(size=(3, 32))[labels] + rng.normal(size=(len(labels), 32))
    pairs = rng.permutation(len(labels))[:20].reshape(10, 2)  # of any two classes
    features[pairs[:, 1]] = features[pairs[:, 0]] * (1 + 1e-3 * rng.normal(size=(10, 32)))
    found = []
    for order in (np.arange(len(labels)), rng.permutation(len(labels))):
        cache = write_rows(work / "cache", features, labels, order)
        split_cache(cache, RECIPE)
        found.append(splits_of(cache))
    assert found[0] == found[1]
    for a, b in pairs:
        assert found[0][f"{a}.png"] == found[0][f"{b}.png"]
    split_cache(cache, SplitRecipe(RECIPE.shares, seed=1), replace_splits=True)
    assert splits_of(cache) != found[0]
    split_cache(cache, RECIPE, replace_splits=True)  # a seed draws what it drew before
    assert splits_of(cache) == found[0]


def test_units_and_named_columns_stay_together_and_what_lacks_is_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [30, 6, 1])
    units = [f"film {row // 3}" for row in range(len(labels))]
    camera = ["a" if label == 1 else str(row) for row, label in enumerate(labels)]
    features = rng.normal(size=(len(labels), 8))
    columns = {"unit": units, "camera": camera}
    cache = write_rows(tmp_path / "c", features, labels, np.arange(len(labels)), **columns)
    report = split_cache(cache, SplitRecipe({"test": 0.2}, by=("camera",)))
    found = splits_of(cache)
    sides = {unit: {found[f"{r}.png"] for r, u in enumerate(units) if u == unit} for unit in units}
    assert all(len(side) == 1 for side in sides.values())
    assert report.lacking == {
        "test": {"class 1": "its 6 images belong together", "class 2": "1 image"}
    }
    assert report.recipe.by == ("unit", "camera")
    assert recipe_of(open_cache(cache.path).manifest) == report.recipe
    assert verify_files(cache.path).ok
    with pytest.raises(UsageError, match="did you mean 'camera'"):
        split_cache(cache.path, SplitRecipe({"test": 0.2}, by=("camer",)), replace_splits=True)


def test_images_without_a_unit_are_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [20, 10])
    units = ["" if row % 2 else f"film {row // 4}" for row in range(30)]
    cache = write_rows(tmp_path / "c", rng.normal(size=(30, 8)), labels, np.arange(30), unit=units)
    split_cache(cache, SplitRecipe({"test": 0.3}))
    found = splits_of(cache)
    assert {found[f"{row}.png"] for row, unit in enumerate(units) if not unit} == {"train", "test"}


def test_splits_that_are_there_are_refused_unless_replaced(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [20, 10])
    cache = write_rows(tmp_path / "c", rng.normal(size=(30, 8)), labels, np.arange(30))
    split_cache(cache, RECIPE)
    before = splits_of(cache)
    assert split_cache(cache.path, RECIPE).assigned == 0
    with pytest.raises(UsageError, match="was divided before .test=0.2,val=0.1"):
        split_cache(cache.path, SplitRecipe({"test": 0.3}))
    assert splits_of(cache) == before
    report = split_cache(cache.path, SplitRecipe({"test": 0.3}), replace_splits=True)
    assert report.counts == {"train": 21, "test": 9}


def test_an_unlabelled_pool_is_not_divided(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cache = write_rows(tmp_path / "c", rng.normal(size=(9, 8)), np.zeros(9), np.arange(9))
    rows = cache.manifest.rows
    at = rows.column_names.index("label")
    unlabelled = rows.set_column(at, "label", pa.array([-1] * 9, pa.int64()))
    np.savez(tmp_path / "p.npz", features=rng.normal(size=(9, 8)).astype(np.float32))
    names = ["row_id", "key", "uri", "label", "split"]
    pool = Manifest("pool", unlabelled.select(names), ClassList(("class 0",)))
    import_features(tmp_path / "p.npz", tmp_path / "p", manifest=pool)
    with pytest.raises(UsageError, match="no image of train has a label"):
        split_cache(tmp_path / "p", RECIPE)


def test_a_folder_that_grows_keeps_its_splits_and_assigns_what_is_new(
    encoder: Encoder, tmp_path: Path
) -> None:
    photos, out = write_images(tmp_path / "photos", {"fox": 20, "jay": 8}), tmp_path / "cache"
    shutil.copy(photos / "fox/000.png", photos / "fox/copy.png")
    report = extract(photos, out, encoder=encoder, splitting=RECIPE)
    assert report.split is not None and report.split.counts == {"train": 20, "val": 3, "test": 6}
    before = splits_of(out)
    assert before["fox/copy.png"] == before["fox/000.png"]
    assert extract(photos, out, encoder=encoder).encoded == 0 and splits_of(out) == before
    moved = next(key for key, split in before.items() if split == "test" and "jay" in key)
    (photos / moved).rename(photos / "fox" / "was_a_jay.png")
    more = write_images(tmp_path / "test", {"fox": 10, "owl": 5})
    shutil.copytree(more / "owl", photos / "owl")
    for path in (more / "fox").iterdir():
        shutil.copy(path, photos / "fox" / f"new-{path.name}")
    report = extract(photos, out, encoder=encoder)
    assert report.encoded == 15 and report.split is not None and report.split.assigned == 15
    after = splits_of(out)
    assert {key: after[key] for key in before if key != moved} == {
        key: split for key, split in before.items() if key != moved
    }
    assert after["fox/was_a_jay.png"] == "test"
    new = [after[key] for key in after if key not in before and key != "fox/was_a_jay.png"]
    assert set(new) == {"train", "val", "test"}
    assert {after[key] for key in after if key.startswith("owl")} >= {"train", "test"}
    assert recipe_of(open_cache(out).manifest) is not None and verify_files(out).ok


def test_an_extraction_killed_before_it_divides_what_is_new_does_so_when_it_runs_again(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = write_images(tmp_path / "photos", {"fox": 12, "jay": 8}), tmp_path / "cache"
    extract(photos, out, encoder=encoder, splitting=RECIPE)
    before = splits_of(out)
    shutil.copytree(write_images(tmp_path / "test", {"owl": 6}) / "owl", photos / "owl")
    with monkeypatch.context() as patched:
        patched.setattr("ltcache.extract.two_passes.assign_waiting", _killed)
        with pytest.raises(KeyboardInterrupt):
            extract(photos, out, encoder=encoder)
    waiting = {key for key, split in splits_of(out).items() if split == "unassigned"}
    assert waiting == {f"owl/{n:03d}.png" for n in range(6)}
    report = extract(photos, out, encoder=encoder)
    assert report.encoded == 0 and report.split is not None and report.split.assigned == 6
    after = splits_of(out)
    assert "unassigned" not in after.values() and before.items() <= after.items()


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_composites_are_made_of_the_training_images_that_are_left(
    encoder: Encoder, tmp_path: Path
) -> None:
    photos, out = write_images(tmp_path / "photos", {"fox": 12, "jay": 8}), tmp_path / "cache"
    extract(photos, out, encoder=encoder, views=["cmo:1"], splitting=RECIPE)
    cache = open_cache(out)
    assert "cmo:1" in cache.views and {"train", "val", "test"} == set(cache.splits)
    assert verify_files(out).ok
    with pytest.raises(UsageError, match="has composites"):
        split_cache(cache, SplitRecipe({"test": 0.5}), replace_splits=True)


def test_a_source_with_splits_keeps_them(encoder: Encoder, tmp_path: Path) -> None:
    for name in ("train", "test"):
        write_images(tmp_path / "photos" / name, {"fox": 12, "jay": 6})
    photos, out = tmp_path / "photos", tmp_path / "cache"
    with pytest.raises(UsageError, match=r"photos has these splits already .test 18 images"):
        extract(photos, out, encoder=encoder, splitting=RECIPE)
    assert not out.exists()
    report = extract(photos, out, encoder=encoder, splitting=SplitRecipe({"val": 0.25}))
    assert report.split is not None
    assert report.split.counts == {"train": 13, "val": 5, "test": 18}
    assert extract(photos, out, encoder=encoder).split is not None
