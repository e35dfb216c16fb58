"""Planted permutations and copies are found; sound labels and weak encoders raise no alarm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ltcache.errors import CacheError
from ltcache.examine import (
    check_cache,
    duplicate_names,
    exact_duplicates,
    find_permutation,
    near_duplicates,
    permuted_labels,
)
from tests.fakes import FakeCache, long_tail_counts


def planted(
    counts: np.ndarray, target: np.ndarray, accuracy: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels, and predictions that are right so often for images of permuted classes."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    right = rng.random(len(labels)) < accuracy
    return labels, np.where(right, target[labels], rng.integers(0, len(counts), len(labels)))


@pytest.mark.parametrize("accuracy", [0.35, 0.6, 0.9])
@pytest.mark.parametrize("classes", [3, 100])
def test_two_swapped_classes_are_found(classes: int, accuracy: float) -> None:
    target = np.arange(classes)
    target[[0, 2]] = 2, 0
    counts = long_tail_counts(classes, 400, 5)
    if accuracy < 0.5 and classes == 3:
        counts[:] = 300
    found = find_permutation(*planted(counts, target, accuracy), classes)
    assert found is not None
    assert found.pairs == ((0, 2), (2, 0))
    assert found.after > found.before + 0.2


@pytest.mark.parametrize("accuracy", [0.5, 0.9])
@pytest.mark.parametrize("classes", [2, 10, 300])
def test_all_classes_permuted_are_found(classes: int, accuracy: float) -> None:
    target = np.roll(np.arange(classes), 1)
    counts = np.maximum(long_tail_counts(classes, 300, 20), 20)
    found = find_permutation(*planted(counts, target, accuracy), classes)
    if classes == 2 and accuracy == 0.5:
        return  # half of the rest is right by chance: too near to tell
    assert found is not None
    right = [pair for pair in found.pairs if target[pair[0]] == pair[1]]
    assert len(right) >= 0.95 * classes
    assert len(found.pairs) - len(right) <= 0.05 * classes


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("classes", "most", "least"), [(2, 50, 5), (10, 40, 2), (200, 60, 1)])
def test_no_alarm_near_chance_nor_for_sound_labels(
    classes: int, most: int, least: int, seed: int
) -> None:
    counts = long_tail_counts(classes, most, least)
    for accuracy in (0.0, 0.02, 0.3, 0.8):
        assert (
            find_permutation(*planted(counts, np.arange(classes), accuracy, seed), classes) is None
        )


def test_no_alarm_for_a_weak_encoder_on_permuted_labels() -> None:
    target = np.roll(np.arange(50), 1)
    assert find_permutation(*planted(np.full(50, 40), target, 0.03), 50) is None


def test_classes_that_swallow_others_are_no_permutation() -> None:
    labels = np.repeat(np.arange(6), 100)
    favourite = np.array([0, 0, 0, 3, 3, 3])  # two in three classes are always taken for another
    assert find_permutation(labels, favourite[labels], 6) is None


def test_empty_classes_and_no_rows() -> None:
    none = np.zeros(0, np.int64)
    assert find_permutation(none, none, 5) is None
    target = np.arange(6)
    target[[1, 4]] = 4, 1
    found = find_permutation(*planted(np.array([50, 50, 0, 50, 50, 0]), target, 0.9), 6)
    assert found is not None
    assert found.pairs == ((1, 4), (4, 1))


def test_names_that_repeat() -> None:
    assert duplicate_names(["missile", "fox", "Missile", "sun_glasses", "sun glasses"]) == [
        ("missile", (0, 2)),
        ("sun_glasses", (3, 4)),
    ]


class Permuted(FakeCache):
    """A cache whose class texts stand in another order than its labels."""

    def __init__(self, target: np.ndarray, **settings: object) -> None:
        super().__init__(long_tail_counts(len(target), 60, 20), **settings)  # type: ignore[arg-type]
        self._text = self._text[np.argsort(target)]

    def row_features(self, rows: np.ndarray, field: str = "embedding") -> np.ndarray:
        return self._features[field][rows]

    def field_dims(self) -> dict[str, int]:
        return {"embedding": self._features["embedding"].shape[2]}


def with_column(cache: FakeCache, name: str, values: list[str]) -> None:
    from dataclasses import replace

    rows = cache.manifest.rows
    cache.manifest = replace(cache.manifest, rows=rows.append_column(name, pa.array(values)))


def fake(target: list[int]) -> Permuted:
    cache = Permuted(np.array(target), noise=0.1)
    with_column(cache, "sha256", [f"{row:064d}" for row in range(len(cache.manifest))])
    return cache


def test_checks_of_a_cache() -> None:
    sound = check_cache(fake([0, 1, 2, 3, 4, 5]))
    assert sound.permuted == ()
    swapped = check_cache(fake([0, 3, 2, 1, 4, 5]))
    assert [found.split for found in swapped.permuted] == ["train", "val", "test"]
    assert swapped.permuted[0].pairs == ((1, 3), (3, 1))
    assert "labels of train look permuted in 2 classes: 1 (" in swapped.lines()[0]
    assert swapped.to_dict()["permuted"][0]["split"] == "train"


def test_copies_across_splits() -> None:
    cache = fake([0, 1, 2, 3])
    assert exact_duplicates(cache) is None
    assert near_duplicates(cache) is None
    train, test = cache.rows("train"), cache.rows("test")
    features = cache._features["embedding"]
    features[test[:7]] = features[train[3]]  # 7 test images of class 0 that show one of train
    features[test[8]] = features[train[4]] * 2 + 1e-4
    content = cache.manifest.rows["sha256"].to_pylist()
    for row in test[:2]:
        content[row] = content[train[3]]
    content[test[9]] = content[train[-1]]  # another class
    names = cache.manifest.rows.column_names
    from dataclasses import replace

    rows = cache.manifest.rows.set_column(names.index("sha256"), "sha256", pa.array(content))
    cache.manifest = replace(cache.manifest, rows=rows)
    exact = exact_duplicates(cache)
    assert exact is not None
    assert (exact.count, exact.conflicts, exact.classes) == (3, 1, (0,))
    assert (exact.first[0].split, exact.first[0].other_split) == ("test", "train")
    assert "3 images are in two splits (the same bytes), 1 under another label" in exact.describe(
        cache.classes.names
    )
    near = near_duplicates(cache)
    assert near is not None
    assert near.count == 6
    assert near.first[0].cosine == pytest.approx(1)
    keys = cache.manifest.rows["key"].to_pylist()
    assert near.first[0].other_key == keys[train[3]]


def test_sets_whose_images_are_all_alike_are_no_copies() -> None:
    cache = Permuted(np.arange(4), noise=0.01)
    with_column(cache, "sha256", [f"{row:064d}" for row in range(len(cache.manifest))])
    found = near_duplicates(cache)
    assert found is None or found.count < 0.2 * len(cache.rows("test"))


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cache = fake([0, 1, 2, 3])
    features = cache._features["embedding"]
    features[cache.rows("test")[::5]] = features[cache.rows("train")[3]]
    whole = near_duplicates(cache)
    monkeypatch.setattr("ltcache.cache.likeness._BLOCK", 7)
    assert near_duplicates(cache) == whole
    assert whole is not None


def test_caches_that_cannot_tell_raise_no_alarm() -> None:
    cache = fake([0, 3, 2, 1])
    assert permuted_labels(cache, "nowhere") is None
    assert permuted_labels(cache) is not None
    features = cache._features["embedding"]
    features[3] = np.nan
    with pytest.raises(CacheError, match="run ltcache verify"):
        permuted_labels(cache)
    cache.prompt_names = ()
    assert permuted_labels(cache) is None
