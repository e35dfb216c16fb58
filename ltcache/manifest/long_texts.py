"""Columns of texts above two gigabytes: offsets of 64 bits where those of 32 bits end.

Arrow's ``string`` addresses 2^31 bytes, which 33.5 million SHA-256 fill; ``large_string`` has no
such limit. Smaller columns stay ``string``, so that their files stay as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

LONG = 2**30
"""Bytes from which on a column has 64-bit offsets: two smaller ones can be joined in 32 bits."""


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds texts, of whatever offsets."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def with_room(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return a column, with 64-bit offsets where it is of texts and may outgrow those of 32."""
    if pa.types.is_string(texts.type) and texts.nbytes >= LONG:
        return texts.cast(pa.large_string())
    return texts


def text_array(texts: Sequence[str | None]) -> pa.Array:
    """Return texts as a column, whatever their size.

    Raises:
        UnicodeEncodeError: one of them is not Unicode.
    """
    return whole_texts(pa.array(texts, pa.string()))  # in pieces, where one cannot hold all


def mapped_texts(texts: pa.Array, change: Callable[[str], str]) -> pa.Array:
    """Return a column with each text changed; each distinct one is a Python value once."""
    coded = texts.dictionary_encode()
    return text_array([change(text) for text in coded.dictionary.to_pylist()]).take(coded.indices)


def numbered_texts(before: str, count: int) -> pa.Array:
    """Return ``count`` texts: each ``before`` and its position."""
    numbers = pa.array(np.arange(count)).cast(pa.large_string())
    scalar = pa.scalar(before, pa.large_string())
    return narrow(pc.binary_join_element_wise(scalar, numbers, pa.scalar("", pa.large_string())))


def narrow(texts: pa.Array) -> pa.Array:
    """Return ``large_string`` as the type that a column of this size has."""
    return texts if texts.nbytes >= LONG else texts.cast(pa.string())


def whole_texts(texts: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return a column in one piece, whatever its size."""
    texts = with_room(texts)
    if not isinstance(texts, pa.ChunkedArray):
        return texts
    # Arrow copies also what lies in one piece
    return texts.chunk(0) if texts.num_chunks == 1 else texts.combine_chunks()


def whole_table(table: pa.Table) -> pa.Table:
    """Return a table each of whose columns is in one piece, whatever its size."""
    columns = [whole_texts(column) for column in table.columns]
    return pa.table(columns, names=table.column_names)


def place_among(values: pa.ChunkedArray | pa.Array, known: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return int32 (n,), the first position of each value among those known; null: not there."""
    known = whole_texts(known)
    if pa.types.is_large_string(known.type):
        values = values.cast(known.type)  # else Arrow would narrow those known
    return pc.index_in(whole_texts(values), value_set=known)
