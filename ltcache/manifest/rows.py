"""From what lists say to canonical rows: uris cleaned, keys made, every rule checked by line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ltcache.errors import ManifestError
from ltcache.manifest.distinct import is_distinct
from ltcache.manifest.long_texts import text_array, whole_table, with_room
from ltcache.manifest.manifest import COLUMNS
from ltcache.records import one_line

_LEAVES_ROOT = r"^/|^[A-Za-z]:/|^[A-Za-z][A-Za-z0-9+.-]*://|(^|[/\\])\.\.([/\\]|$)|\x00"
_UNTIDY = r"//|(^|/)\.(/|$)|/$"
_SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@one_line
@dataclass(frozen=True)
class Listing:
    """What one list or folder says, row by row.

    Args:
        where: the file or folder, for messages.
        uris: n paths as they were written.
        labels: int64 (n,) with -1 = unlabelled, or n class names (None = unlabelled).
        split: one split for all rows, or a column of n.
        lines: the line of each row in the file; None where the rows are files in a folder or an
            archive, whose uris are right as they are.
        keys: a column of n keys, or None for the default (the uri).
        extra: user columns of n values.
        class_names: names in label order, where the file itself gives them.
        notes: what the reader noticed and a user should see.
    """

    where: str
    uris: list[str] | pa.StringArray
    labels: np.ndarray | list[str | None]
    split: str | pa.Array
    lines: Sequence[int] | None = None
    keys: pa.Array | None = None
    extra: Mapping[str, pa.Array] = field(default_factory=dict)
    class_names: Sequence[str] | None = None
    notes: tuple[str, ...] = ()

    @property
    def numbers(self) -> np.ndarray:
        """The labels where they are numbers; none at all (-1) where they are names."""
        if isinstance(self.labels, np.ndarray):
            return self.labels
        return np.full(len(self.uris), -1, dtype=np.int64)

    def uri(self, row: int) -> str:
        """Return the path of a row as it was written."""
        return str(self.uris[row])

    def place(self, row: int) -> str:
        """Return the place of a row for a message: ``FILE line 12``."""
        if self.lines is None:
            return f"{self.where} ({self.uri(row)})"
        return f"{self.where} line {self.lines[row]}"


def build_rows(listings: Sequence[Listing], num_classes: int) -> pa.Table:
    """Return the canonical rows of all listings, in their order.

    Raises:
        ManifestError: a path leaves its root, a label has no class, a key or a path comes twice,
            or there are no rows at all; names the file and the line.
    """
    tables = [_table(listing, num_classes) for listing in listings if len(listing.uris)]
    if not tables:
        names = ", ".join(listing.where for listing in listings)
        raise ManifestError(f"{names or 'the source'}: no images are listed")
    try:
        rows = whole_table(pa.concat_tables(tables, promote_options="permissive"))
    except pa.ArrowException as error:
        raise ManifestError(f"the lists' columns do not fit together: {error}") from None
    places = _LineFinder([listing for listing in listings if len(listing.uris)])
    distinct_uris = is_distinct(rows["uri"])
    if not distinct_uris:
        _refuse_repeated_paths(rows, places)
    keys = _keys(rows, places, distinct_uris)
    order = ["label", "split", *[c for c in rows.column_names if c not in COLUMNS.names]]
    numbers = pa.array(np.arange(rows.num_rows, dtype=np.int64))
    columns = [numbers, with_room(keys), rows["uri"], *[rows[column] for column in order]]
    return pa.table(columns, names=["row_id", "key", "uri", *order])


def clean_uris(listing: Listing) -> pa.Array:
    """Return a listing's paths relative to the root; what a person wrote may have backslashes
    between folders, and ``.`` parts.

    Raises:
        ManifestError: a path is empty, absolute, a URL, holds ``..``, or is not Unicode.
    """
    uris = listing.uris
    if isinstance(uris, list):
        uris = _column(listing, uris)
    if listing.lines is not None and pc.any(pc.match_substring(uris, "\\")).as_py():
        uris = pc.replace_substring(uris, "\\", "/")
    bad = pc.match_substring_regex(uris, _LEAVES_ROOT)
    if (row := _first(bad)) is not None:
        raise ManifestError(
            f"{listing.place(row)}: the path {listing.uri(row)!r} is not below the root; "
            "paths are relative and hold no '..'"
        )
    if listing.lines is not None and pc.any(pc.match_substring_regex(uris, _UNTIDY)).as_py():
        tidy = ["/".join(p for p in u.split("/") if p not in ("", ".")) for u in uris.to_pylist()]
        uris = text_array(tidy)
    if (row := _first(pc.equal(uris, ""))) is not None:
        raise ManifestError(f"{listing.place(row)}: the path is empty")
    return uris


def _column(listing: Listing, uris: list[str]) -> pa.StringArray:
    try:
        return text_array(uris)
    except UnicodeEncodeError as error:
        row = next(row for row, uri in enumerate(uris) if uri == error.object)
        raise ManifestError(
            f"{listing.place(row)}: the path {listing.uri(row)!r} is not Unicode"
        ) from None


def _table(listing: Listing, num_classes: int) -> pa.Table:
    """Return one listing as a table of uri, label, split, key (null = default) and user columns."""
    count = len(listing.uris)
    labels = np.asarray(listing.labels, dtype=np.int64)
    bad = (labels < -1) | (labels >= num_classes)
    if bad.any():
        row = int(np.argmax(bad))
        known = f"0..{num_classes - 1}" if num_classes else "none"
        raise ManifestError(
            f"{listing.place(row)}: label {labels[row]}, but the class list has {num_classes} "
            f"classes ({known}); -1 stands for unlabelled"
        )
    keys = pa.nulls(count, pa.string()) if listing.keys is None else listing.keys
    columns = {"uri": clean_uris(listing), "label": pa.array(labels), "split": _splits(listing)}
    return pa.table({**columns, "key": keys, **listing.extra})


def _splits(listing: Listing) -> pa.Array:
    """Return the split of each row; a split is also a file name, so it must be able to be one."""
    if isinstance(listing.split, str):
        return pa.repeat(checked_split(listing.where, listing.split), len(listing.uris))
    for split in pc.unique(listing.split).to_pylist():
        checked_split(listing.place(pc.index(listing.split, split).as_py()), split)
    return listing.split


def checked_split(place: str, split: str) -> str:
    """Return a split whose name can also be that of a file.

    Raises:
        ManifestError: it cannot; names the place.
    """
    if not _SPLIT_NAME.fullmatch(split):
        raise ManifestError(
            f"{place}: the split {split!r} is not a name of letters, digits, '.', '_', '-'"
        )
    return split


class _LineFinder:
    """Finds the line of a row of all listings put together."""

    def __init__(self, listings: Sequence[Listing]) -> None:
        self.listings = listings
        self.starts = np.cumsum([0] + [len(listing.uris) for listing in listings])

    def __call__(self, row: int) -> str:
        which = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.listings[which].place(row - int(self.starts[which]))


def _refuse_repeated_paths(rows: pa.Table, places: _LineFinder) -> None:
    pairs = list(zip(rows["split"].to_pylist(), rows["uri"].to_pylist(), strict=True))
    if (repeated := _first_repeated(pairs)) is not None:
        first, second = repeated
        split, uri = pairs[second]
        raise ManifestError(
            f"{places(second)}: {uri!r} is already in the split {split!r}, at {places(first)}"
        )


def _keys(rows: pa.Table, places: _LineFinder, distinct_uris: bool) -> pa.Array:
    """Return one unique key per row: the given one, the uri, or ``split/uri`` where that repeats.

    Raises:
        ManifestError: a given key repeats; names both lines.
    """
    uris, made = rows["uri"], pc.is_null(rows["key"])
    if rows["key"].null_count == rows.num_rows:
        keys, distinct = uris, distinct_uris
    else:
        keys = pc.coalesce(rows["key"], uris)
        distinct = is_distinct(keys)
    if distinct:
        return keys
    kind = uris.type
    longer = pc.binary_join_element_wise(rows["split"].cast(kind), uris, pa.scalar("/", kind))
    counts = pc.value_counts(keys)
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    keys = pc.if_else(pc.and_(made, pc.is_in(keys, repeated)), longer, keys)
    if not is_distinct(keys):  # 'val/x' in train beside 'x' in val: lengthen all
        keys = pc.if_else(made, longer, keys)
    if not is_distinct(keys):
        texts = keys.to_pylist()
        first, second = _first_repeated(texts) or (0, 0)
        raise ManifestError(
            f"{places(second)}: the key {texts[second]!r} is also at {places(first)}"
        )
    return keys


def _first_repeated(values: Sequence[object]) -> tuple[int, int] | None:
    """Return the positions of the first value that comes again, or None."""
    if len(set(values)) == len(values):
        return None
    seen: dict[object, int] = {}
    for position, value in enumerate(values):
        if value in seen:
            return seen[value], position
        seen[value] = position
    return None


def _first(mask: pa.Array) -> int | None:
    """Return the position of the first True, or None."""
    position = pc.index(mask, True).as_py()
    return None if position < 0 else position
