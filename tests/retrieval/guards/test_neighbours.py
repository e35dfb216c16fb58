"""Near duplicates: exact neighbours, surroundings, and a threshold that errs as often as said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltcache.retrieval.guards import neighbours as module
from ltcache.retrieval.guards.neighbours import (
    AROUND,
    CERTAIN,
    NearThreshold,
    calibrate_near,
    close_pairs,
    neighbours,
    surroundings,
    units_of,
)
from ltcache.retrieval.scoring.queries import unit
from tests.retrieval.array_pool import ArrayPool
from tests.retrieval.conftest import World, write_cache


def plain(values: np.ndarray, shown: np.ndarray, image: np.ndarray, left_out: int | None) -> list:
    """Return (cosine, unit) of all references of other units, best first."""
    cosines = unit(values.astype(np.float64)) @ unit(image.astype(np.float64))
    found = zip(cosines, shown, strict=True)
    return sorted([pair for pair in found if pair[1] != left_out], key=lambda pair: -pair[0])


@settings(max_examples=25)
@given(
    rows=st.integers(1, 90),
    units=st.integers(1, 30),
    block=st.integers(1, 100),
    masked=st.booleans(),
    seed=st.integers(0, 99),
)
def test_neighbours_and_surroundings_are_those_of_a_plain_search(
    rows: int, units: int, block: int, masked: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, 6)).astype(np.float32)
    shown = rng.integers(0, units, rows)
    images = rng.normal(size=(4, 6)).astype(np.float32)
    without = rng.integers(0, units, 4) if masked else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        found = neighbours(ArrayPool(values), shown, images, without=without)
    around = surroundings(found, found.units[:, 0])
    for n in range(4):
        expected = plain(values, shown, images[n], None if without is None else int(without[n]))
        there = found.rows[n] >= 0
        depth = min(64, len(expected))
        assert there.sum() == depth
        known = [cosine for cosine, _ in expected[:depth]]
        np.testing.assert_allclose(found.similarity[n][there], known, atol=1e-5)
        others = [c for c, u in expected[:depth] if u != expected[0][1]] if expected else []
        if len(others) >= AROUND:
            assert around[n] == pytest.approx(np.mean(others[:AROUND]), abs=1e-5)


def test_the_rate_of_false_alarms_is_the_one_that_was_named(world: World) -> None:
    cache = world.labelled(counts=(200, 150, 100, 50, 20, 10))
    near = calibrate_near(cache, false_alarm=0.05)
    units, named = units_of(cache, "train")
    assert (near.units, named, near.images) == ("unit", "unit", 530)
    train = ArrayPool(cache.features("train")[:, 0])
    found = neighbours(train, units, train.values, without=units)
    alarms = near.holds(found.best, surroundings(found, found.units[:, 0]))
    assert 0.045 <= alarms.mean() <= 0.055
    fresh = world.images(world.rng.choice(cache.labels("train"), 1200))
    found = neighbours(train, units, fresh)
    alarms = near.holds(found.best, surroundings(found, found.units[:, 0]))
    assert alarms.mean() < 0.1
    copies = train.values + 0.01 * world.rng.normal(size=train.values.shape)
    found = neighbours(train, units, copies)
    assert near.holds(found.best, surroundings(found, found.units[:, 0])).mean() > 0.95


def test_equal_features_count_under_any_calibration() -> None:
    never = NearThreshold(9.0, 0.01, 0, "image", {})
    holds = never.holds(np.array([1.0, CERTAIN, 0.99, -1.0]), np.zeros(4))
    assert holds.tolist() == [True, True, False, False]


def test_close_pairs_are_symmetric_and_find_copies() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(30, 16))
    images[7] = images[3] + 1e-3 * rng.normal(size=16)
    images[8] = images[3]
    labelled = neighbours(ArrayPool(rng.normal(size=(50, 16))), np.arange(50), images)
    pairs = close_pairs(images, labelled, NearThreshold(1.5, 0.01, 50, "image", {}))
    assert [pairs[n].tolist() for n in (3, 7, 8)] == [[7, 8], [3, 8], [3, 7]]
    assert all(not len(pairs[n]) for n in range(30) if n not in (3, 7, 8))
    assert [len(p) for p in close_pairs(images[:1], labelled.take(np.array([0])), None)] == [0]  # type: ignore[arg-type]


@pytest.mark.parametrize("labelled", [0, 1, 3])
def test_few_images_have_surroundings_too(labelled: int) -> None:
    rng = np.random.default_rng(1)
    for count in (2, 3, 5):
        images = rng.normal(size=(count, 64))
        images[1] = images[0] + 1e-3 * rng.normal(size=64)
        references = ArrayPool(rng.normal(size=(labelled, 64)))
        near = neighbours(references, np.arange(labelled), images)
        pairs = close_pairs(images, near, NearThreshold(1.5, 0.01, 50, "image", {}))
        assert [found.tolist() for found in pairs] == [[1], [0], *[[]] * (count - 2)]


def test_without_training_images_only_equal_features_count(world: World) -> None:
    cache = write_cache(world.root / "tests", world.images(np.arange(3)),
                        {"label": [0, 1, 2], "split": ["test"] * 3}, text=world.text)  # fmt: skip
    near = calibrate_near(cache)
    assert near.images == 0
    assert near.holds(np.array([0.99, CERTAIN]), np.array([-1.0, -1.0])).tolist() == [False, True]
