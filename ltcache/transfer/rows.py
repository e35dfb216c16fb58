"""Rows of imported features: labels, splits, keys and classes, out of what a source holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from ltcache.errors import UsageError
from ltcache.manifest import ClassList, Manifest, read_classes, read_manifest
from ltcache.transfer.arrays import Stack
from ltcache.transfer.layouts import Found, Part, read_column

_MOST_CLASSES = 10_000_000
_UNLABELLED = ("", "None")  # how a list of class names says that a row has none


def override(
    found: Found,
    labels: str | Path | np.ndarray | None,
    splits: str | Path | Sequence[str] | None,
    classes: str | Path | Sequence[str] | None,
    text: str | Path | np.ndarray | None,
) -> None:
    """Put what was named beside the source in place of what the source says."""
    for what, value in (("labels", labels), ("splits", splits)):
        if value is None:
            continue
        column = read_column(Path(value), what) if isinstance(value, (str, Path)) else value
        _spread(found.parts, what, np.asarray(column))
    if isinstance(classes, (str, Path)):
        found.classes = list(read_classes(Path(classes)).names)
    elif classes is not None:
        found.classes = list(classes)
    if text is not None:
        array = read_column(Path(text), "text") if isinstance(text, (str, Path)) else text
        found.text = np.asarray(array, dtype=np.float32)


def _spread(parts: Sequence[Part], what: str, column: np.ndarray) -> None:
    """Give each part its share of a column over all rows."""
    rows = sum(_length(part) for part in parts)
    if len(column) != rows:
        raise UsageError(f"{len(column)} {what} for {rows} rows of features")
    start = 0
    for part in parts:
        setattr(part, what, column[start : start + _length(part)])
        start += _length(part)


def _length(part: Part) -> int:
    return len(next(iter(part.fields.values())))


def rename_field(found: Found, feature_field: str) -> None:
    """Call a source's features ``pooled`` where they are that."""
    for part in found.parts:
        if feature_field == "pooled" and "pooled" not in part.fields:
            part.fields = {"pooled": part.fields["embedding"]}


def stacks_of(found: Found) -> dict[str, Stack]:
    """Return field -> the features of all parts, one below the other."""
    names = set(found.parts[0].fields)
    for part in found.parts:
        if set(part.fields) != names:
            raise UsageError(f"not every split has the same fields: {sorted(names)}, then "
                             f"{sorted(part.fields)}")  # fmt: skip
    stacks = {
        name: Stack([part.fields[name] for part in found.parts], name) for name in sorted(names)
    }
    if len({(len(stack), stack.crops) for stack in stacks.values()}) != 1:
        raise UsageError("embedding and pooled have different numbers of rows or crops")
    if not len(next(iter(stacks.values()))):
        raise UsageError("there are no rows of features")
    return stacks


def manifest_of(
    found: Found, manifest: str | Path | Manifest | None, name: str, split: str
) -> Manifest:
    """Return the rows of all parts as a manifest, or the one that is given if it is as long."""
    rows = sum(_length(part) for part in found.parts)
    if manifest is not None:
        listed = manifest if isinstance(manifest, Manifest) else read_manifest(manifest)
        if len(listed) != rows:
            raise UsageError(f"the manifest lists {len(listed)} rows for {rows} rows of features")
        return listed
    split_of = np.concatenate([_splits_of(part, split) for part in found.parts])
    labels, classes = _labels(found)
    keys = [key for part in found.parts for key in _keys_of(part)]
    if not all(keys) or len(set(keys)) != rows:
        keys = [f"{of}/{row:08d}" for row, of in enumerate(split_of.tolist())]
    table = pa.table(
        {
            "row_id": pa.array(np.arange(rows), pa.int64()),
            "key": pa.array(keys, pa.string()),
            "uri": pa.array(keys, pa.string()),
            "label": pa.array(labels, pa.int64()),
            "split": pa.array(split_of.tolist(), pa.string()),
        }
    )
    return Manifest(name, table, classes, templates=(), card={"title": f"imported {name}"})


def _splits_of(part: Part, split: str) -> np.ndarray:
    if part.splits is not None:
        if part.splits.ndim != 1 or len(part.splits) != _length(part):
            raise UsageError(f"splits {part.splits.shape} for {_length(part)} rows of features")
        return np.asarray(part.splits, dtype=object)
    return np.full(_length(part), part.split or split, dtype=object)


def _keys_of(part: Part) -> list[str]:
    if part.keys is None or part.keys.shape != (_length(part),):
        return [""] * _length(part)
    return [str(key) for key in part.keys.tolist()]


def _labels(found: Found) -> tuple[np.ndarray, ClassList]:
    """Return labels, int64 (n,), and the class list they count into."""
    columns = []
    for part in found.parts:
        column = np.full(_length(part), -1) if part.labels is None else np.asarray(part.labels)
        if column.ndim == 2:
            column = _from_one_hot(column)
        if column.shape != (_length(part),):
            raise UsageError(f"labels {column.shape} for {_length(part)} rows of features")
        columns.append(column)
    named = any(column.dtype.kind in "OUS" for column in columns)
    names = found.classes
    if named and names is None:
        named_by = {str(v) for c in columns if c.dtype.kind in "OUS" for v in c.tolist()}
        names = sorted(named_by - set(_UNLABELLED))
    labels = np.concatenate([_numbered(column, names) for column in columns])
    most = int(labels.max(initial=-1)) + 1
    of_text = 0 if found.text is None else _num_texts(found.text)
    if names is None:
        if most > _MOST_CLASSES:
            raise UsageError(f"label {most - 1} is too high to be one: name the classes")
        names = [f"class {label}" for label in range(max(most, of_text))]
    if most > len(names) or labels.min() < -1 or (of_text and of_text != len(names)):
        raise UsageError(
            f"labels run from {labels.min()} to {most - 1}, but there are {len(names)} classes"
            + (f" and {of_text} class texts" if of_text else "")
        )
    return labels, ClassList(tuple(names), (None,) * len(names))


def _num_texts(text: np.ndarray) -> int:
    if text.ndim not in (2, 3):
        raise UsageError(f"class texts {text.shape} are not (C, D) or (C, M, D)")
    return len(text)


def _from_one_hot(column: np.ndarray) -> np.ndarray:
    """Return labels (n,) of one-hot rows (n, C), as Tip-Adapter's values, or of a column (n, 1)."""
    if column.shape[1] == 1:
        return column[:, 0]
    if column.dtype.kind in "OUS" or not np.array_equal((column == 1).sum(1), (column != 0).sum(1)):
        raise UsageError(f"labels {column.shape} are not one-hot")
    if not ((column != 0).sum(axis=1) == 1).all():
        raise UsageError(f"labels {column.shape} are not one-hot")
    return np.asarray(column.argmax(axis=1))


def _numbered(column: np.ndarray, names: Sequence[str] | None) -> np.ndarray:
    if column.dtype.kind not in "OUS":
        if column.dtype.kind == "f" and not (column == np.floor(column)).all():
            raise UsageError("labels are not whole numbers")
        return column.astype(np.int64)
    known = {name: label for label, name in enumerate(names or ())}
    if len(known) != len(names or ()):
        raise UsageError("labels are names, but two classes bear the same name: give numbers")
    known = dict.fromkeys(_UNLABELLED, -1) | known
    missing = sorted({str(value) for value in column.tolist()} - set(known))
    if missing:
        raise UsageError(f"label {missing[0]!r} is not in the class list")
    return np.array([known[str(value)] for value in column.tolist()], dtype=np.int64)
