"""The one reader of labels: whole numbers however they are written, class names, and no label.

Lists, tables, sidecars of tar shards, saved datasets and imported arrays all pass through it, so
one column means the same wherever it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ltcache.errors import ManifestError
from ltcache.manifest.columns import decoded
from ltcache.manifest.long_texts import is_text
from ltcache.manifest.text import some
from ltcache.records import one_line

MISSING_WORDS = ("nan", "-nan", "na", "n/a", "#n/a", "<na>", "none", "null")
"""How programs write that a value is missing, in lower case."""

_WHOLE = r"^(-?[0-9]{1,18})$"
_WHOLE_AS_FLOAT = r"^(-?[0-9]{1,18})\.0*$"


@one_line
@dataclass(frozen=True)
class RowLabels:
    """The labels of n rows.

    Args:
        values: int64 (n,) with -1 = unlabelled, or n class names (None = unlabelled).
        notes: what a user should know about how they were read.
    """

    values: np.ndarray | list[str | None]
    notes: tuple[str, ...] = ()


def read_labels(where: str, name: str, values: pa.Array) -> RowLabels:
    """Return the labels of a column of numbers, texts or bytes.

    Whole numbers in text are numbers. A word for a missing value (:data:`MISSING_WORDS`) among
    numbers is no label; among class names it is a name, for a class may be called None; a null or
    an empty text is no label anywhere.

    Args:
        where: the file, for messages.
        name: of the column, for messages.

    Raises:
        ManifestError: other values, or numbers that are not whole.
    """
    values = decoded(where, name, values)
    kind = values.type
    if is_text(kind):
        return _of_texts(where, values)
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if not numeric and not pa.types.is_null(kind):
        raise ManifestError(f"{where}: the column {name!r} holds {kind}, not labels")
    if pa.types.is_floating(kind):
        values = pc.if_else(pc.is_nan(values), None, values)
    try:
        return RowLabels(_with_gaps(values.cast(pa.int64())))
    except pa.ArrowInvalid as error:
        raise ManifestError(f"{where}: the column {name!r} is no label column: {error}") from None


def _with_gaps(numbers: pa.Array) -> np.ndarray:
    return np.array(pc.fill_null(numbers, -1).to_numpy(zero_copy_only=False), dtype=np.int64)


def _of_texts(where: str, values: pa.Array) -> RowLabels:
    values = pc.utf8_trim_whitespace(values)
    values = pc.if_else(pc.equal(values, ""), None, values)
    numbers = pc.replace_substring_regex(values, _WHOLE_AS_FLOAT, r"\1")
    whole = pc.fill_null(pc.match_substring_regex(numbers, _WHOLE), False)
    words = pc.is_in(pc.utf8_lower(values), pa.array(MISSING_WORDS))
    some_whole = pc.any(whole).as_py()
    names = pc.invert(pc.or_(pc.or_(whole, words), pc.is_null(values)))
    some_names = pc.any(names).as_py()
    if not some_names and (some_whole or not pc.any(words).as_py()):
        found = values.filter(words)
        notes = [_taken(where, found, "as missing, not as a class")] if len(found) else []
        return RowLabels(
            _with_gaps(pc.if_else(words, None, numbers).cast(pa.int64())), tuple(notes)
        )
    notes = []
    if some_names and len(found := values.filter(words)):
        notes.append(_taken(where, found, "as the name of a class; leave empty what has no label"))
    if some_names and some_whole:
        count, other = pc.sum(whole).as_py(), values.filter(names)[0].as_py()
        notes.append(
            f"{where}: {count} label(s) are whole numbers and others are not ({other!r}): all are "
            "taken as names of classes"
        )
    coded = values.dictionary_encode()
    classes = [*coded.dictionary.to_pylist(), None]  # each name once, however many rows bear it
    codes = pc.fill_null(coded.indices, len(classes) - 1).to_pylist()
    return RowLabels([classes[code] for code in codes], tuple(notes))


def _taken(where: str, found: pa.Array, how: str) -> str:
    words = sorted(set(found.to_pylist()))
    return f"{where}: {len(found)} label(s) {some(map(repr, words))} are taken {how}"


def whole_number(text: str) -> int | None:
    """Return the whole number that a text is, as labels are written (``7``, ``7.0``), or None."""
    found = re.match(_WHOLE, text) or re.match(_WHOLE_AS_FLOAT, text)
    return int(found[1]) if found else None


def only_missing_words(labels: Iterable[str | None]) -> bool:
    """Return whether labels are nothing but words for a missing value (or none at all)."""
    return all(label is None or label.lower() in MISSING_WORDS for label in set(labels))
