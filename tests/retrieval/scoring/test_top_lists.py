"""Running lists keep what a plain sort keeps."""

from __future__ import annotations

import numpy as np
import pytest

from ltcache.retrieval.scoring.top_lists import TopLists


@pytest.mark.parametrize("parts", [1, 7, 400])
def test_lists_are_the_best_of_all_entries_by_class_and_value(parts: int) -> None:
    rng = np.random.default_rng(0)
    rows, where = np.arange(20_000), rng.integers(0, 5, 20_000)
    values = rng.normal(size=20_000).astype(np.float32)  # of both signs
    values[:6] = [0.0, -0.0, np.inf, -np.inf, 3e-40, -3e-40]
    lists = TopLists(5, 50, 0.0, lambda rows, where: values[rows].astype(np.float64))
    for part in np.array_split(rows, parts):
        lists.add(part, where[part], values[part])
    order = np.lexsort((rows, -values, where))
    ranks = np.concatenate([np.arange(n) for n in np.bincount(where)])
    best = order[ranks < 50]
    assert lists.entries()[0].tolist() == best.tolist()
    kth = [np.sort(values[where == k])[-50] for k in range(5)]
    np.testing.assert_array_equal(lists.thresholds, np.array(kth, np.float32))


def test_a_slack_keeps_what_rounding_could_hide() -> None:
    lists = TopLists(1, 2, 0.25, lambda rows, where: np.zeros(len(rows)))
    values = np.array([3.0, 2.0, 1.75, 1.5, 1.25], np.float32)
    lists.add(np.arange(5), np.zeros(5, np.int64), values)
    assert lists.entries()[0].tolist() == [0, 1, 2, 3]


def test_nothing_added_gives_no_entry() -> None:
    assert all(not len(part) for part in TopLists(3, 2, 0.0, lambda r, w: r).entries())
