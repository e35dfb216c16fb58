"""Class names where nobody gave any: from a name column, else the folders, else the number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ltcache.errors import ManifestError
from ltcache.manifest.classes import NAME_NORMALISER, ClassList, readable_name
from ltcache.manifest.rows import Listing

_MOST_CLASSES = 10_000_000


def derived_classes(listings: Sequence[Listing]) -> tuple[ClassList, dict[str, Any]]:
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
    training = [listing for listing in listings if listing.split == "train"]
    for known in (
        _named(listings),
        _folders(listings, 1),
        _folders(training, 1),
        _folders(listings, 2),
        _folders(training, 2),
    ):
        if known:
            names = [readable_name(known.get(k, f"class {k}")) for k in range(count)]
            classes = ClassList(tuple(names), tuple(known.get(k) for k in range(count)))
            return classes, {"class_names": NAME_NORMALISER}
    return ClassList(tuple(f"class {k}" for k in range(count))), {}


def parent_folders(listings: Iterable[Listing]) -> set[str]:
    """Return the names of the folders in which the images of some listings lie."""
    return {_parent(uri, 1) for listing in listings for uri in listing.uris}


def _named(listings: Sequence[Listing]) -> dict[int, str] | None:
    """Return label -> name from the name columns, or None unless each label has one."""
    pairs: set[tuple[int, Any]] = set()
    for listing in listings:
        if "name" not in listing.extra:
            return None
        pairs |= set(zip(listing.numbers.tolist(), listing.extra["name"].to_pylist(), strict=True))
    return _consistent(pairs)


def _folders(listings: Sequence[Listing], depth: int) -> dict[int, str] | None:
    """Return label -> the last ``depth`` folders of its images, or None unless it has its own."""
    pairs: set[tuple[int, Any]] = set()
    for listing in listings:
        parents = [_parent(uri, depth) for uri in listing.uris]
        pairs |= set(zip(listing.numbers.tolist(), parents, strict=True))
    return _consistent(pairs)


def _parent(uri: str, depth: int) -> str:
    return "/".join(uri.replace("\\", "/").split("/")[:-1][-depth:])


def _consistent(pairs: set[tuple[Any, Any]]) -> dict[int, str] | None:
    """Return the pairs as label -> text if each label has one and no two share it."""
    known = {int(label): str(text) for label, text in pairs if label >= 0 and text}
    given = [pair for pair in pairs if pair[0] >= 0]
    if not known or len(given) > len(known) or len(set(known.values())) < len(known):
        return None
    return known if all(text.strip() for text in known.values()) else None
