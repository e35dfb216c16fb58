"""Distinct texts are told from repeated ones, whatever they are and however they lie."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ltcache.manifest import distinct
from ltcache.manifest.distinct import is_distinct, know_distinct

TEXTS = [
    "",
    "a",
    "b",
    "ab",
    "ba",
    "é",
    "狐",
    "a\x00",
    "a" * 300,
    "images/0/1.jpg",
    "images/1/0.jpg",
]


@pytest.mark.parametrize("block", [1, 2, 5, 1 << 15])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_as_a_set_says(block: int, kind: pa.DataType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distinct, "_BLOCK", block)
    rng = np.random.default_rng(0)
    for _ in range(40):
        texts = [TEXTS[k] for k in rng.integers(0, len(TEXTS), rng.integers(0, 6))]
        column = pa.chunked_array([pa.array(["x", *texts[:2]], kind).slice(1), texts[2:]], kind)
        assert is_distinct(column) == (len(set(texts)) == len(texts)), texts
    assert is_distinct(pa.array(TEXTS, kind))
    assert not is_distinct(pa.array([*TEXTS, "狐"], kind))


def test_equal_sums_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distinct, "_sums", lambda texts: np.zeros(len(texts), np.uint64))
    assert is_distinct(pa.array(TEXTS)) and not is_distinct(pa.array(["a", "b", "a"]))


def test_many_texts_have_their_own_sums() -> None:
    texts = pc.cast(pa.array(np.arange(200_000)), pa.string())
    assert len(np.unique(distinct._sums(pa.chunked_array([texts])))) == len(texts)


def test_what_is_known_holds_for_parts_alone() -> None:
    column = pa.array(["a", "b", "a"])
    know_distinct(column)  # as a careless writer would
    assert is_distinct(column.slice(1)) and is_distinct(pa.chunked_array([column]))
    assert not is_distinct(column.take(pa.array([0, 1, 2])))
    assert not is_distinct(column.filter(pa.array([True, False, True])))
