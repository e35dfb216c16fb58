"""Whether the texts of a column are distinct: known, seen at once, or found by hashing them all."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

_BLOCK = 1 << 17
_KNOWN: dict[tuple[int, int], pa.Array] = {}
"""Addresses of the buffers of a mapped column -> the column, which keeps them where they are."""


def know_distinct(texts: pa.Array) -> None:
    """Note that a mapped column is distinct, as its writer has found, and with it its parts."""
    if len(texts):
        _KNOWN[_addresses(texts)] = texts


def is_distinct(texts: pa.ChunkedArray | pa.Array) -> bool:
    """Whether no text comes twice; hashing takes a hundred bytes a row while it lasts."""
    whole = pa.chunked_array(texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts])
    if is_known_distinct(whole) or _ascends(whole):
        return True
    return bool(pc.count_distinct(whole).as_py() == len(whole))


def is_known_distinct(texts: pa.ChunkedArray) -> bool:
    """Whether a column is one that :func:`know_distinct` was told of, or a part of it."""
    return texts.num_chunks == 1 and _addresses(texts.chunk(0)) in _KNOWN


def _ascends(texts: pa.ChunkedArray) -> bool:
    """Whether each text is greater than the one before, as in the list of a folder."""
    for start in range(0, len(texts) - 1, _BLOCK):
        block = texts.slice(start, _BLOCK + 1).combine_chunks()
        if not pc.all(pc.less(block[:-1], block[1:])).as_py():
            return False
    return True


def _addresses(texts: pa.Array) -> tuple[int, int]:
    _, offsets, data = texts.buffers()
    return offsets.address if offsets else 0, data.address if data else 0
