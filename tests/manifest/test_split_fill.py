"""Blocks of images are divided whole, near to the shares, and every class keeps training images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltcache.errors import UsageError
from ltcache.manifest import FREE, TRAIN, ImageBlocks, SplitFill, SplitRecipe, parse_shares

SHARES = st.sampled_from([(0.2,), (0.2, 0.1), (0.5, 0.4), (0.1, 0.1), (0.9,), (0.33, 0.33)])
COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any)


def divide(
    labels: np.ndarray, blocks: np.ndarray, shares: tuple[float, ...], placed: np.ndarray | None
) -> np.ndarray:
    free = np.full(len(labels), FREE) if placed is None else placed
    return SplitFill(ImageBlocks(labels, blocks), shares, free).run()


@given(counts=COUNTS, shares=SHARES, seed=st.integers(0, 99))
def test_single_images_are_within_one_of_every_share(
    counts: list[int], shares: tuple[float, ...], seed: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    blocks = np.random.default_rng(seed).permutation(len(labels))
    found = divide(labels, blocks, shares, None)
    for label, count in enumerate(counts):
        mine = found[labels == label]
        for number, share in enumerate(shares, 1):
            assert abs((mine == number).sum() - share * count) <= 1 + 1e-9
        assert count == 0 or (mine == TRAIN).any()
        assert count < 2 or (mine == 1).any()


@given(counts=COUNTS, shares=SHARES, seed=st.integers(0, 99), units=st.integers(1, 30))
def test_a_block_is_on_one_side_and_the_order_of_rows_changes_nothing(
    counts: list[int], shares: tuple[float, ...], seed: int, units: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    blocks = np.unique(rng.integers(0, units, len(labels)), return_inverse=True)[1]
    found = divide(labels, blocks, shares, None)
    for block in np.unique(blocks):
        assert len(set(found[blocks == block])) == 1
    assert set(labels[found == TRAIN]) == set(labels)
    order = rng.permutation(len(labels))
    assert (divide(labels[order], blocks[order], shares, None) == found[order]).all()


@given(counts=COUNTS, more=COUNTS, seed=st.integers(0, 99))
def test_what_has_a_split_stays_in_it_and_new_images_of_its_block_join_it(
    counts: list[int], more: list[int], seed: int
) -> None:
    rng, shares = np.random.default_rng(seed), (0.2, 0.1)
    old = np.repeat(np.arange(len(counts)), counts)
    first = divide(old, np.arange(len(old)), shares, None)
    new = np.repeat(np.arange(len(more)), more)
    blocks = np.r_[np.arange(len(old)), len(old) + np.arange(len(new))]
    blocks[len(old)] = beside = rng.integers(len(old))
    blocks = np.unique(blocks, return_inverse=True)[1]
    placed = np.r_[first, np.full(len(new), FREE)]
    found = divide(np.r_[old, new], blocks, shares, placed)
    assert (found[: len(old)] == first).all()
    assert found[len(old)] == first[beside]
    assert (found >= TRAIN).all()


def test_a_class_of_two_units_has_one_of_them_in_test() -> None:
    found = divide(np.zeros(60, int), np.repeat([0, 1], 30), (0.2,), None)
    assert sorted({*found[:30]} | {*found[30:]}) == [TRAIN, 1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("test", "write splits as test=0.2,val=0.1"),
        ("test=much", "write splits as test=0.2,val=0.1"),
        ("tset=0.2", "did you mean 'test'?"),
        ("train=0.7", "train is what is left"),
        ("test=0.2,testing=0.1", "named twice"),
        ("test=0.9,val=0.1", "leave nothing to train on"),
        ("test=0", "between 0 and 1"),
        ("test=nan", "between 0 and 1"),
        ("test=1.5", "between 0 and 1"),
    ],
)
def test_shares_that_cannot_be_are_refused(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        SplitRecipe(parse_shares(text))
