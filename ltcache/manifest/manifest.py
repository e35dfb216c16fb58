"""The manifest: which images, which class, which split; no pixels and no stored counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ltcache.errors import ManifestError
from ltcache.manifest.classes import ClassList
from ltcache.manifest.distinct import is_distinct
from ltcache.manifest.long_texts import is_text
from ltcache.manifest.roots.places import Root
from ltcache.manifest.row_json import rows_digest
from ltcache.manifest.splits import in_order
from ltcache.records import JsonObject, digest

COLUMNS = pa.schema(
    [
        ("row_id", pa.int64()),
        ("key", pa.string()),
        ("uri", pa.string()),
        ("label", pa.int64()),
        ("split", pa.string()),
    ]
)
"""The canonical columns; user columns follow them. Long texts are ``large_string``."""

IDENTIFYING = ("key", "uri", "label", "split")
"""The columns that tell one list from another."""

_BLOCK = 1 << 17
DEFAULT_TEMPLATES = ("a photo of a {}.",)


@dataclass(frozen=True)
class Manifest:
    """Images, classes and splits of one dataset, in one canonical form.

    Args:
        name: short name for messages and reports.
        rows: table of n rows: ``row_id`` int64 (0..n-1), ``key`` string (unique), ``uri`` string
            (relative to the root, with ``/``), ``label`` int64 (-1 = unlabelled), ``split``
            string; then whatever columns the user's list carried along (``unit``, ``vendor``...).
        classes: C classes; their number never follows from the labels that occur.
        templates: prompt templates.
        groups: raw group setting (thresholds or explicit lists), None = the default thresholds.
        descriptions: label -> sentences, or None.
        card: title, licence and the like; may be empty.
        root: what the uris are relative to (see `ltcache.manifest.roots`); never stored.
        warnings: what the reader noticed and a user should see; never stored.

    Raises:
        ManifestError: the table lacks a column, or breaks one of the rules above.
    """

    name: str
    rows: pa.Table
    classes: ClassList
    templates: tuple[str, ...] = DEFAULT_TEMPLATES
    groups: Mapping[str, Any] | None = None
    descriptions: Mapping[int, tuple[str, ...]] | None = None
    card: Mapping[str, Any] = field(default_factory=dict)
    root: Root | None = None
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_rows(self.rows, self.num_classes)

    def __repr__(self) -> str:
        """Return the name and the sizes, on one line."""
        splits = [f"{split} {len(self.indices(split))}" for split in self.splits]
        sizes = [f"{len(self)} images", f"{self.num_classes} classes", *splits]
        return f"Manifest({self.name!r}, {', '.join(sizes)})"

    def __len__(self) -> int:
        """The number of rows, n."""
        return int(self.rows.num_rows)

    @property
    def num_classes(self) -> int:
        """C, the length of the class list."""
        return len(self.classes)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that occur: train, val, test and pool first, then others as they appear."""
        return in_order(pc.unique(self.rows["split"]).to_pylist())

    def indices(self, split: str | None = None) -> np.ndarray:
        """Return the int64 row numbers of ``split`` (None = of all rows), ascending."""
        if split is None:
            return np.arange(len(self), dtype=np.int64)
        chosen = pc.equal(self.rows["split"], split).to_numpy()
        return np.flatnonzero(chosen).astype(np.int64)

    def labels(self, split: str | None = None) -> np.ndarray:
        """Return the int64 labels (n,) of ``split`` in row order; -1 = unlabelled."""
        labels = self.rows["label"].to_numpy()
        return np.array(labels[self.indices(split)], dtype=np.int64)

    def class_counts(self, split: str | None = "train") -> np.ndarray:
        """Return the int64 number of rows per class (C,); empty classes count 0."""
        labels = self.labels(split)
        return np.bincount(labels[labels >= 0], minlength=self.num_classes).astype(np.int64)

    def head(self, count: int) -> Manifest:
        """Return the manifest of the first ``count`` rows; the classes stay."""
        return replace(self, rows=self.rows.slice(0, count))

    def identity(self) -> JsonObject:
        """Return a value for JSON that differs when rows, classes or settings differ.

        The name, the root, the card and the user columns take no part.
        """
        return {
            "num_rows": len(self),
            "rows": self._rows_digest,
            "classes": self.classes.identity(),
            "templates": digest(list(self.templates)),
            "groups": digest(self.groups),
            "descriptions": digest(self.header()["descriptions"]),
        }

    @cached_property
    def _rows_digest(self) -> str:
        return rows_digest([self.rows.select(IDENTIFYING)])

    def header(self) -> JsonObject:
        """Return all but rows, root and warnings as a value for JSON (see `from_header`)."""
        described = self.descriptions
        return {
            "name": self.name,
            "classes": self.classes.header(),
            "templates": list(self.templates),
            "groups": None if self.groups is None else dict(self.groups),
            "descriptions": None
            if described is None
            else {str(k): list(v) for k, v in described.items()},
            "card": dict(self.card),
        }

    @classmethod
    def from_header(
        cls, header: Mapping[str, Any], rows: pa.Table, root: Root | None = None
    ) -> Manifest:
        """Return the manifest of a stored header and its rows.

        Raises:
            ManifestError: the header lacks a field, or the rows do not fit its classes.
        """
        try:
            described = header["descriptions"]
            return cls(
                name=header["name"],
                rows=rows,
                classes=ClassList.from_header(header["classes"]),
                templates=tuple(header["templates"]),
                groups=header["groups"],
                descriptions=described and {int(k): tuple(v) for k, v in described.items()},
                card=dict(header["card"]),
                root=root,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ManifestError(f"not the header of a manifest: {error!r}") from None


def check_rows(rows: pa.Table, num_classes: int) -> None:
    """Refuse a table that is not in the canonical form.

    Raises:
        ManifestError: naming the column and the rule.
    """
    for column in COLUMNS:
        if column.name not in rows.column_names:
            raise ManifestError(f"the rows lack the column {column.name!r}")
        found = rows.schema.field(column.name).type
        if found != column.type and not (is_text(column.type) and is_text(found)):
            raise ManifestError(f"the column {column.name!r} is {found}, not {column.type}")
        if rows[column.name].null_count:
            raise ManifestError(f"the column {column.name!r} has empty values")
    count = rows.num_rows
    if not _counts_from_zero(rows["row_id"]):
        raise ManifestError("the column 'row_id' does not count from 0 in steps of 1")
    if not is_distinct(rows["key"]):
        raise ManifestError("the column 'key' is not unique")
    labels = rows["label"].to_numpy()
    if count and (labels.min() < -1 or labels.max() >= num_classes):
        raise ManifestError(
            f"labels run from {labels.min()} to {labels.max()}, but there are {num_classes} classes"
        )


def _counts_from_zero(numbers: pa.ChunkedArray) -> bool:
    blocks = range(0, len(numbers), _BLOCK)
    parts = ((start, numbers.slice(start, _BLOCK).to_numpy()) for start in blocks)
    return all(np.array_equal(part, start + np.arange(len(part))) for start, part in parts)
