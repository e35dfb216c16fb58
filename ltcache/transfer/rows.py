"""Rows of imported features: labels, splits, keys and classes, out of what a source holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ltcache.errors import UsageError
from ltcache.manifest import (
    ClassList,
    Listing,
    Manifest,
    ResolvedLabels,
    canonical_split,
    checked_split,
    read_classes,
    read_labels,
    read_manifest,
    resolve_labels,
)
from ltcache.records import one_line
from ltcache.transfer.arrays import StackedArrays
from ltcache.transfer.columns import arrow_column, texts_of_array
from ltcache.transfer.layouts import ImportedFeatures, ImportedSplit, read_column

_MOST_CLASSES = 10_000_000
_UNNAMED = (
    "the names of the rows are not taken ({}): rows are named by their number, by which ltcache "
    "ensemble would match those of another import"
)


@one_line
@dataclass(frozen=True, eq=False)
class NamedBeside:
    """What the caller names beside a source; see :func:`ltcache.transfer.import_features`."""

    labels: str | Path | np.ndarray | None = None
    splits: str | Path | Sequence[str] | None = None
    classes: str | Path | Sequence[str] | None = None
    text: str | Path | np.ndarray | None = None
    manifest: str | Path | Manifest | None = None
    split: str = "train"


def put_named(found: ImportedFeatures, named: NamedBeside) -> None:
    """Put what was named beside the source in place of what the source says."""
    classes, text = named.classes, named.text
    for what, value in (("labels", named.labels), ("splits", named.splits)):
        if value is None:
            continue
        column = read_column(Path(value), what) if isinstance(value, (str, Path)) else value
        _spread(found.parts, what, np.asarray(column))
    if isinstance(classes, (str, Path)):
        found.classes = read_classes(Path(classes))
    elif classes is not None:
        found.classes = ClassList(tuple(classes))
    if text is not None:
        array = read_column(Path(text), "text") if isinstance(text, (str, Path)) else text
        try:
            found.text = np.asarray(array, dtype=np.float32)
        except (TypeError, ValueError):
            raise UsageError(f"{text}: class embeddings are numbers (C, D) in an array") from None


def _spread(parts: Sequence[ImportedSplit], what: str, column: np.ndarray) -> None:
    """Give each part its share of a column over all rows."""
    rows = sum(_length(part) for part in parts)
    if len(column) != rows:
        raise UsageError(f"{len(column)} {what} for {rows} rows of features")
    start = 0
    for part in parts:
        setattr(part, what, column[start : start + _length(part)])
        start += _length(part)


def _length(part: ImportedSplit) -> int:
    return len(next(iter(part.fields.values())))


def rename_field(found: ImportedFeatures, feature_field: str) -> None:
    """Call a source's features ``pooled`` where they are that."""
    for part in found.parts:
        if feature_field == "pooled" and "pooled" not in part.fields:
            part.fields = {"pooled": part.fields["embedding"]}


def stacks_of(found: ImportedFeatures) -> dict[str, StackedArrays]:
    """Return field -> the features of all parts, one below the other."""
    names = set(found.parts[0].fields)
    for part in found.parts:
        if set(part.fields) != names:
            raise UsageError(f"not every split has the same fields: {sorted(names)}, then "
                             f"{sorted(part.fields)}")  # fmt: skip
    stacks = {
        name: StackedArrays([part.fields[name] for part in found.parts], name)
        for name in sorted(names)
    }
    if len({(len(stack), stack.crops) for stack in stacks.values()}) != 1:
        raise UsageError("embedding and pooled have different numbers of rows or crops")
    if not len(next(iter(stacks.values()))):
        raise UsageError("there are no rows of features")
    return stacks


def manifest_of(
    found: ImportedFeatures, manifest: str | Path | Manifest | None, name: str, split: str
) -> Manifest:
    """Return the rows of all parts as a manifest, or the one that is given if it is as long.

    What a user should know about it stands in its ``warnings``.
    """
    rows = sum(_length(part) for part in found.parts)
    if manifest is not None:
        listed = manifest if isinstance(manifest, Manifest) else read_manifest(manifest)
        if len(listed) != rows:
            raise UsageError(f"the manifest lists {len(listed)} rows for {rows} rows of features")
        _require_order(found.parts, listed)
        return listed
    split_of = [name for part in found.parts for name in _splits_of(part, split)]
    resolved = _resolved(found)
    labels = np.concatenate([listing.numbers for listing in resolved.listings])
    keys, reason = _keys_of(found.parts)
    if not keys:
        keys = [f"{of}/{row:08d}" for row, of in enumerate(split_of)]
    notes = (*resolved.notes, *([_UNNAMED.format(reason)] if reason else ()))
    table = pa.table(
        {
            "row_id": pa.array(np.arange(rows), pa.int64()),
            "key": pa.array(keys, pa.string()),
            "uri": pa.array(keys, pa.string()),
            "label": pa.array(labels, pa.int64()),
            "split": pa.array(split_of, pa.string()),
        }
    )
    card = {"title": f"imported {name}", **resolved.card}
    return Manifest(name, table, resolved.classes, templates=(), card=card, warnings=notes)


def _splits_of(part: ImportedSplit, split: str) -> list[str]:
    """Return the split of each row by its usual name; numbers are taken as names."""
    if part.splits is None:
        return [canonical_split(checked_split("the split", part.split or split))] * _length(part)
    if part.splits.ndim != 1 or len(part.splits) != _length(part):
        raise UsageError(f"splits {part.splits.shape} for {_length(part)} rows of features")
    splits = [canonical_split(text) for text in texts_of_array("splits", part.splits)]
    for row, found in enumerate(splits):
        checked_split(f"row {row + 1}", found)
    return splits


def _keys_of(parts: Sequence[ImportedSplit]) -> tuple[list[str], str]:
    """Return the name of each row, or none and why those that are there cannot be taken."""
    if all(part.keys is None for part in parts):
        return [], ""
    keys: list[str] = []
    for part in parts:
        if part.keys is None:
            return [], "some rows have none"
        if part.keys.shape != (_length(part),):
            return [], f"there are {part.keys.shape} for {_length(part)} rows"
        column = arrow_column("keys", part.keys)
        if column.null_count or "" in column.to_pylist():
            return [], "some are empty"
        keys += texts_of_array("keys", part.keys)
    twice = next((key for key, times in Counter(keys).items() if times > 1), None)
    return (keys, "") if twice is None else ([], f"{twice!r} names more than one row")


def _require_order(parts: Sequence[ImportedSplit], listed: Manifest) -> None:
    """Refuse a list that names the rows of a source in another order than the source's own names.

    Raises:
        UsageError: with the first row that stands elsewhere.
    """
    keys, _ = _keys_of(parts)
    place = {key: row for row, key in enumerate(listed.rows["key"].to_pylist())} if keys else {}
    for row, key in enumerate(keys):
        if place.get(key, row) != row:
            raise UsageError(
                f"row {row + 1} of the features is {key!r}, which is row {place[key] + 1} of the "
                "manifest: list the rows in the order of the features"
            )


def _resolved(found: ImportedFeatures) -> ResolvedLabels:
    """Return the labels of each part, and the class list that they count into."""
    listings = [_listing(part) for part in found.parts]
    named = any(not isinstance(listing.labels, np.ndarray) for listing in listings)
    classes = found.classes
    of_text = 0 if found.text is None else _num_texts(found.text)
    if classes is None and named and of_text:
        raise UsageError(
            "the labels are names, and nothing says in which order the class texts stand: give the "
            "class names in the order of the texts with --classes"
        )
    most = 1 + max(int(listing.numbers.max(initial=-1)) for listing in listings)
    if classes is None and not named:
        if most > _MOST_CLASSES:
            raise UsageError(f"label {most - 1} is too high to be one: name the classes")
        classes = ClassList(tuple(f"class {label}" for label in range(max(most, of_text))))
    least = min(int(listing.numbers.min(initial=-1)) for listing in listings)
    if classes is not None and (
        most > len(classes) or least < -1 or (of_text and of_text != len(classes))
    ):
        raise UsageError(
            f"labels run from {least} to {most - 1}, but there are {len(classes)} classes"
            + (f" and {of_text} class texts" if of_text else "")
        )
    return resolve_labels(listings, classes)


def _listing(part: ImportedSplit) -> Listing:
    """Return the rows of a part with labels as they were read; a row is named by its number."""
    count = _length(part)
    column = np.full(count, -1) if part.labels is None else np.asarray(part.labels)
    if column.ndim == 2:
        column = _from_one_hot(column)
    if column.shape != (count,):
        raise UsageError(f"labels {column.shape} for {count} rows of features")
    if column.dtype.kind == "f" and not (column[np.isfinite(column)] % 1 == 0).all():
        raise UsageError("labels are not whole numbers")
    where = f"labels of {part.split}" if part.split else "labels"
    labels = read_labels(where, "labels", arrow_column(where, column))
    rows = [str(row) for row in range(count)]
    return Listing(
        where, rows, labels.values, part.split or "", range(1, count + 1), notes=labels.notes
    )


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
