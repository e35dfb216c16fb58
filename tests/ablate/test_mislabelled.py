"""Wrong labels are found by predictions that were not fitted on them, never by those of test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ltcache.ablate import ablate, label_errors
from ltcache.ablate.folds import divide
from ltcache.cache import Cache, open_cache
from ltcache.errors import IdentityError, UsageError
from ltcache.report import suspicious_rows
from tests.ablate.test_folds import HashedCache
from tests.report.html.conftest import COUNTS, NAMES, write_named_cache


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache of six classes."""
    return write_named_cache(tmp_path_factory.mktemp("shop") / "cache", COUNTS, NAMES, 5)


def relabelled(cache: Cache, labels: dict[int, int]) -> Cache:
    """Return a cache with other labels of some rows."""
    table, changed = cache.manifest.rows, cache.manifest.labels().copy()
    for row, label in labels.items():
        changed[row] = label
    place = table.column_names.index("label")
    return cache.with_rows(table.set_column(place, "label", pa.array(changed)))


def test_the_rows_are_those_of_the_confident_joint_written_out() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 400)
    labels[labels == 2] = 1  # a class without a row
    logits = rng.normal(size=(400, 4)) + 2.5 * np.eye(4)[labels]
    shown = rng.choice(400, 30, replace=False)
    logits[shown] += 6 * np.eye(4)[(labels[shown] + 1) % 4]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = suspicious_rows(probabilities, labels)
    # a row may be of the classes that it is as sure of as rows with that label are on average
    known = np.unique(labels)
    kept = probabilities[:, known] / probabilities[:, known].sum(axis=1, keepdims=True)
    least = np.array([kept[labels == k, j].mean() for j, k in enumerate(known)])
    confident = np.where(kept >= least, kept, -1.0)
    other = known[confident.argmax(axis=1)] != labels
    wrong = (confident.max(axis=1) >= 0) & other & (known[kept.argmax(axis=1)] != labels)
    assert 10 < len(found) < 100
    assert sorted(found) == np.flatnonzero(wrong).tolist()
    own = kept[np.arange(400), np.searchsorted(known, labels)]
    assert (np.diff(own[found]) >= 0).all()


def test_changed_labels_are_listed_with_the_class_that_they_had(shop: Path, tmp_path: Path) -> None:
    clean = open_cache(shop)
    labels = clean.manifest.labels()
    changed = dict.fromkeys(np.flatnonzero(labels == 0)[:6].tolist(), 1)
    noisy = relabelled(clean, changed)
    ablate(noisy, ["ncm"], tmp_path / "folds", seeds=2, folds=3, workers=1)
    found = label_errors(tmp_path / "folds", noisy)
    listed = {error.row: error for error in found.errors}
    caught = [listed[row] for row in changed if row in listed]
    assert len(caught) >= 4
    for error in caught:
        assert error.label == NAMES[1] != error.suggested
        assert error.key == f"k{error.row}"
        assert error.label_probability < error.suggested_probability
    assert sum(error.suggested == NAMES[0] for error in caught) >= 4
    assert found.seeds == 2 and found.line == "ncm"
    assert found.images + found.not_looked_at == len(clean.rows("train"))
    parts = divide(noisy, 3)  # all counts stay where two images of one fold swap their labels
    one, other = (parts.rows[(parts.fold == 0) & (labels[parts.rows] == k)][0] for k in (2, 3))
    swapped = {**changed, int(one): 3, int(other): 2}
    for another in ({0: 5, 1: 5, 2: 5}, swapped):
        with pytest.raises(UsageError, match="not those that .* divided into folds"):
            label_errors(tmp_path / "folds", relabelled(clean, another))


def test_runs_on_other_labels_are_not_taken_for_those_of_the_cache(
    shop: Path, tmp_path: Path
) -> None:
    clean = open_cache(shop)
    labels = clean.manifest.labels()
    noisy = relabelled(clean, dict.fromkeys(np.flatnonzero(labels == 0)[:60].tolist(), 1))
    for folds in (None, 3):
        out = tmp_path / str(folds)
        before, after = (
            ablate(cache, ["ncm"], out, seeds=1, folds=folds, workers=1).comparison["entries"][0]
            for cache in (clean, noisy)
        )
        assert before["runs"] != after["runs"] and before["scores"] != after["scores"]


def test_an_ablation_on_a_split_and_another_cache_are_refused(shop: Path, tmp_path: Path) -> None:
    ablate(shop, ["ncm"], tmp_path / "split", seeds=1, workers=1)
    with pytest.raises(UsageError, match="ltcache ablate CACHE --methods ce --folds 5"):
        label_errors(tmp_path / "split")
    ablate(HashedCache(), ["ncm"], tmp_path / "folds", seeds=1, folds=2, workers=1)
    with pytest.raises((UsageError, IdentityError)):
        label_errors(tmp_path / "folds", shop)
