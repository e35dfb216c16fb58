"""Columns of a table as texts, in whatever type a file stores them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from ltcache.errors import ManifestError
from ltcache.manifest.long_texts import is_text, narrow
from ltcache.records import one_line

_BYTE_ORDER_MARK = "\ufeff"


@one_line
@dataclass(frozen=True)
class TableColumns:
    """A table as read.

    Args:
        values: columns of n values by lower-case name.
        lines: the line of each row in the file, n of them.
        class_names: column -> names in label order, for the columns of which the file says that
            they hold class labels (``ClassLabel`` of Hugging Face).
        spelled: lower-case name -> the name as the file has it; those left out are as they are.
    """

    values: Mapping[str, pa.Array]
    lines: Sequence[int]
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    spelled: Mapping[str, str] = field(default_factory=dict)


def decoded(where: str, name: str, values: pa.Array) -> pa.Array:
    """Return a column without dictionaries, bytes as text, and text without a byte order mark.

    Raises:
        ManifestError: bytes that are not UTF-8; names the column.
    """
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    if not is_text(kind) and not any(is_kind(kind) for is_kind in binary):
        return values
    try:
        if not is_text(kind):
            values = values.cast(pa.large_binary()).cast(pa.large_string())
        values.validate(full=True)
    except pa.ArrowInvalid:
        raise ManifestError(f"{where}: the column {name!r} holds bytes, not UTF-8 text") from None
    if pc.any(pc.starts_with(values, _BYTE_ORDER_MARK)).as_py():
        values = pc.utf8_ltrim(values, characters=_BYTE_ORDER_MARK)
    return narrow(values)


def text_column(
    where: str, columns: TableColumns, name: str, values: pa.Array, *, numbers: bool = False
) -> pa.Array:
    """Return a column of texts, none of them empty.

    Args:
        numbers: take whole numbers as texts (``0`` as a split or a key is called ``"0"``).

    Raises:
        ManifestError: the column holds something else, or an empty cell; names column and line.
    """
    values = decoded(where, name, values)
    if numbers:
        values = _numbers_as_texts(values)
    if not is_text(values.type):
        if values.null_count < len(values):
            raise ManifestError(f"{where}: the column {name!r} holds {values.type}, not text")
        values = values.cast(pa.string())
    empty = pc.fill_null(pc.equal(values, ""), True)
    if (row := pc.index(empty, True).as_py()) >= 0:
        raise ManifestError(f"{where} line {columns.lines[row]}: the column {name!r} is empty")
    return values


def _numbers_as_texts(values: pa.Array) -> pa.Array:
    """Return whole numbers as texts; other values as they are."""
    if pa.types.is_floating(values.type):
        try:
            values = pc.if_else(pc.is_nan(values), None, values).cast(pa.int64())
        except pa.ArrowInvalid:
            return values
    return values.cast(pa.string()) if pa.types.is_integer(values.type) else values
