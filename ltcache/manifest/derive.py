"""Class names where nobody gave any: from a name column, else the folders, else the number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from ltcache.errors import ManifestError
from ltcache.manifest.classes import NAME_NORMALISER, ClassList, composed, readable_name
from ltcache.manifest.rows import Listing, clean_uris
from ltcache.records import JsonObject

_MOST_CLASSES = 10_000_000
_BLOCK = 1 << 17  # rows whose folders are looked at together


def derived_classes(listings: Sequence[Listing]) -> tuple[ClassList, JsonObject]:
    """Return classes 0..highest label for listings with numbers as labels, and a card entry.

    A name column serves if each label has one name, else the folder of the images if each label
    has one of its own (in all rows, or in the training rows), else ``class 12``.

    Raises:
        ManifestError: a label so high that it cannot be one.
    """
    for listing in listings:
        if (listing.numbers >= _MOST_CLASSES).any():
            row = int(np.argmax(listing.numbers))
            raise ManifestError(f"{listing.place(row)}: label {listing.numbers[row]} is too high")
    count = 1 + max((int(np.max(item.numbers, initial=-1)) for item in listings), default=-1)
    known = _named(listings) or _from_folders(listings)
    if known:
        names = [readable_name(known.get(k, f"class {k}")) for k in range(count)]
        classes = ClassList(tuple(names), tuple(known.get(k) for k in range(count)))
        return classes, {"class_names": NAME_NORMALISER}
    return ClassList(tuple(f"class {k}" for k in range(count))), {}


def parent_folders(listings: Iterable[Listing]) -> set[str]:
    """Return the names of the folders in which the images of some listings lie."""
    return {_last(folder, 1) for listing in listings for _, folder in _folders(listing)}


def _named(listings: Sequence[Listing]) -> dict[int, str] | None:
    """Return label -> name from the name columns, or None unless each label has one."""
    pairs: set[tuple[int, Any]] = set()
    for listing in listings:
        if "name" not in listing.extra:
            return None
        values = listing.extra["name"].to_pylist()
        names = [composed(value) if isinstance(value, str) else None for value in values]
        pairs |= set(zip(listing.numbers.tolist(), names, strict=True))
    return _consistent(pairs)


def _from_folders(listings: Sequence[Listing]) -> dict[int, str] | None:
    """Return label -> the last folder or two of its images, or None unless it has its own."""
    found = [_folders(item) for item in listings]
    training = [p for p, item in zip(found, listings, strict=True) if item.split == "train"]
    for depth in (1, 2):
        for part in (found, training):
            pairs = {(label, _last(folder, depth)) for pairs in part for label, folder in pairs}
            if known := _consistent(pairs):
                return known
    return None


def _folders(listing: Listing) -> set[tuple[int, str]]:
    """Return (label, folder of the image) as they occur."""
    found: set[tuple[int, str]] = set()
    uris, numbers = clean_uris(listing), listing.numbers
    for start in range(0, len(uris), _BLOCK):
        folders = pc.replace_substring_regex(uris[start : start + _BLOCK], "(?s)/?[^/]*$", "")
        encoded = folders.dictionary_encode()
        names, codes = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
        pairs = np.unique(numbers[start : start + _BLOCK] * len(names) + codes)
        found |= {(pair // len(names), names[pair % len(names)]) for pair in pairs.tolist()}
    return {(label, composed(folder)) for label, folder in found}


def _last(folder: str, depth: int) -> str:
    return "/".join(folder.split("/")[-depth:])


def _consistent(pairs: set[tuple[int, Any]]) -> dict[int, str] | None:
    """Return the pairs as label -> text if each label has one and no two share it."""
    known = {label: text for label, text in pairs if label >= 0 and text and text.strip()}
    given = [pair for pair in pairs if pair[0] >= 0]
    if not known or len(given) > len(known) or len(set(known.values())) < len(known):
        return None
    return known
