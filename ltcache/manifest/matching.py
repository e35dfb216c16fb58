"""Labels from class names: which class a name or a source id in a list means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import numpy as np

from ltcache.errors import ManifestError
from ltcache.manifest.classes import NAME_NORMALISER, ClassList, readable_name
from ltcache.manifest.rows import Listing
from ltcache.manifest.text import natural_key

_AMBIGUOUS = -2


def named_after_values(listings: Iterable[Listing]) -> tuple[ClassList, dict[str, Any]]:
    """Return the class names that occur in some listings, sorted naturally, and a card entry."""
    values = {value for listing in listings for value in listing.labels if value is not None}
    classes = ClassList.from_raw(sorted(values, key=natural_key))
    return classes, {"class_names": NAME_NORMALISER}


def label_by_name(listing: Listing, classes: ClassList) -> Listing:
    """Return ``listing`` with numbers for class names (source ids and readable forms count too).

    Raises:
        ManifestError: a name is not in the list, or two classes bear it; names the line.
    """
    if isinstance(listing.labels, np.ndarray):
        return listing
    table = _lookup(classes)
    meant = {value: _find(table, value) for value in dict.fromkeys(listing.labels)}
    for value, label in meant.items():
        if label is None or label == _AMBIGUOUS:
            place = listing.place(listing.labels.index(value))
            raise ManifestError(f"{place}: {_complaint(value, label, classes)}")
    labels = [meant[value] for value in listing.labels]
    return replace(listing, labels=np.array(labels, dtype=np.int64))


def _lookup(classes: ClassList) -> dict[str, int]:
    """Return source id, name or readable form -> label; what two classes share is ambiguous.

    Source ids win over names, and names as written over their readable forms.
    """
    layers: Sequence[Sequence[str | None]] = (
        classes.source_ids,
        classes.names,
        [readable_name(name) for name in classes.names],
    )
    table: dict[str, int] = {}
    for layer in layers:
        found: dict[str, int] = {}
        for label, value in enumerate(layer):
            if value is not None:
                found[value] = _AMBIGUOUS if value in found else label
        table = {**found, **table}
    return table


def _find(table: dict[str, int], value: str | None) -> int | None:
    if value is None:
        return -1
    return table.get(value, table.get(readable_name(value)))


def _complaint(value: str | None, label: int | None, classes: ClassList) -> str:
    if label == _AMBIGUOUS:
        return f"more than one class is called {value!r}; use labels or source ids instead"
    known = [name for name in (*classes.names, *classes.source_ids) if name]
    near = get_close_matches(str(value), known, n=3)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    return f"{value!r} is none of the {len(classes)} classes{hint}"
