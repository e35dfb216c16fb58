"""Tables with a column of 0 and 1 for each class, as challenges publish them: one 1 in a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ltcache.errors import ManifestError
from ltcache.manifest.columns import TableColumns, decoded
from ltcache.manifest.long_texts import is_text
from ltcache.manifest.splits import known_split
from ltcache.manifest.text import some
from ltcache.records import one_line

_YES = ("1", "1.0", "true")
_NO = ("0", "0.0", "false", "-1", "-1.0", "")  # -1: uncertain, as CheXpert has it
_CLEAR = 3  # columns of 0 and 1 from which on they are classes and no remarks about the images


@one_line
@dataclass(frozen=True)
class ClassColumns:
    """The classes of n rows, each told by a column of 0 and 1.

    Args:
        columns: their names in the table. names: of the classes, as the file spells the columns.
        labels: n of the names.
    """

    columns: Sequence[str]
    names: Sequence[str]
    labels: Sequence[str]


def read_class_columns(
    where: str, columns: TableColumns, values: Mapping[str, pa.Array]
) -> ClassColumns | None:
    """Return the classes of a table without a column of labels; None: its columns are no classes.

    Columns of 0 and 1 are classes where they are most of the columns and just one of them is 1 in
    each row.

    Args:
        values: those of the columns that may be classes.

    Raises:
        ManifestError: several classes are 1 in a row; names the line.
    """
    marked = {name: ones for name, column in values.items()
              if known_split(name) is None
              and (ones := _ones(where, name, column)) is not None}  # fmt: skip
    others = len(values) - len(marked)
    lines = columns.lines
    if not lines or len(marked) < 2 or len(marked) <= others:
        return None
    names = [columns.spelled.get(name, name) for name in marked]
    counts = np.zeros(len(lines), np.int64)
    last = np.zeros(len(lines), np.int64)
    for number, ones in enumerate(marked.values()):
        counts += ones
        last[ones] = number
    if (counts > 1).any() and len(marked) >= _CLEAR:
        row = int(np.argmax(counts > 1))
        raise ManifestError(
            f"{where} line {lines[row]}: {counts[row]} of the {len(marked)} columns of 0 and 1 "
            f"({some(names)}) are 1: an image has one class here; keep the rows with one class, "
            "write it in a column 'label', take one of the columns as labels 0 and 1 with "
            "--label-column, or read the rows without labels with --unlabelled"
        )
    if (counts != 1).any():
        return None
    return ClassColumns(list(marked), names, [names[k] for k in last.tolist()])


def _ones(where: str, name: str, values: pa.Array) -> np.ndarray | None:
    """Return which rows of a column are 1, bool (n,); None: it holds more than 0 and 1."""
    try:
        values = decoded(where, name, values)
        texts = values if is_text(values.type) else values.cast(pa.string())
    except (ManifestError, pa.ArrowException):
        return None
    texts = pc.fill_null(pc.utf8_lower(pc.utf8_trim_whitespace(texts)), "")
    if not pc.all(pc.is_in(texts, pa.array([*_YES, *_NO], texts.type))).as_py():
        return None
    if pc.all(pc.equal(texts, "")).as_py():
        return None
    ones = pc.is_in(texts, pa.array(_YES, texts.type))
    return np.asarray(ones.to_numpy(zero_copy_only=False), bool)
