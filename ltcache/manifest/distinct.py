"""Whether the texts of a column are distinct: known, seen at once, or found by numbers for them.

Arrow's own count keeps every text in a table, a hundred bytes a row while it lasts. Here a text is
eight bytes: a sum of its bytes with random weights, equal for equal texts. Only texts whose sums
are equal are compared themselves.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_BLOCK = 1 << 15  # texts at a time
_KNOWN: dict[tuple[int, int], pa.Array] = {}
"""Addresses of the buffers of a mapped column -> the column, which keeps them where they are."""


def know_distinct(texts: pa.Array) -> None:
    """Note that a mapped column is distinct, as its writer has found, and with it its parts."""
    if len(texts):
        _KNOWN[_addresses(texts)] = texts


def is_distinct(texts: pa.ChunkedArray | pa.Array) -> bool:
    """Whether no text comes twice; in 16 bytes a row, or none where it is known."""
    whole = texts if isinstance(texts, pa.ChunkedArray) else pa.chunked_array([texts])
    if whole.num_chunks == 1 and _addresses(whole.chunk(0)) in _KNOWN:
        return True
    sums = _sums(whole)
    ordered = np.sort(sums)
    alike = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(alike):
        return True
    doubtful = whole.filter(pa.array(np.isin(sums, alike)))
    return bool(pc.count_distinct(doubtful).as_py() == len(doubtful))


def _sums(texts: pa.ChunkedArray) -> np.ndarray:
    """Return uint64 (n,), equal for equal texts."""
    weights = np.zeros(0, np.uint64)
    result = np.zeros(len(texts), np.uint64)
    for start in range(0, len(texts), _BLOCK):
        block = texts.slice(start, _BLOCK).combine_chunks().cast(pa.large_string())
        lengths = pc.fill_null(pc.binary_length(block), 0).to_numpy()
        longest = int(lengths.max(initial=0))
        if longest > len(weights):  # of one seed: the weights of shorter texts stay as they are
            draw = np.random.default_rng(0)
            weights = draw.integers(0, 1 << 64, longest, np.uint64, endpoint=False) | np.uint64(1)
        result[start : start + len(block)] = _weighted(block, lengths, weights)
    return result


def _weighted(texts: pa.Array, lengths: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return uint64 (n,): the weighted sum of each text's bytes, and its length (modulo 2^64)."""
    result = lengths.astype(np.uint64)
    filled = np.flatnonzero(lengths)
    if not len(filled):
        return result
    _, offsets, data = texts.buffers()
    first = np.frombuffer(offsets, np.int64)[texts.offset]
    every = np.frombuffer(data, np.uint8)[first : first + lengths.sum()]  # a null has no bytes
    starts = np.cumsum(lengths) - lengths
    place = np.arange(len(every)) - np.repeat(starts, lengths)
    result[filled] += np.add.reduceat(every * weights[place], starts[filled])
    return result


def _addresses(texts: pa.Array) -> tuple[int, int]:
    _, offsets, data = texts.buffers()
    return offsets.address if offsets else 0, data.address if data else 0
