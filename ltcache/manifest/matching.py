"""Labels from class names: which class a name or a source id in a list means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ltcache.errors import ManifestError, did_you_mean
from ltcache.manifest.classes import NAME_NORMALISER, ClassList, composed, readable_name
from ltcache.manifest.derive import derived_classes
from ltcache.manifest.labels import only_missing_words, whole_number
from ltcache.manifest.rows import Listing
from ltcache.manifest.text import natural_key, some
from ltcache.records import JsonObject

_AMBIGUOUS = -2
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_JOINED = re.compile("[|;,]")


@dataclass(frozen=True)
class ResolvedLabels:
    """Listings whose labels are numbers that count into ``classes``.

    Args:
        classes: C classes.
        listings: as they were, with int64 labels.
        card: what to record about the names.
        notes: what a user should know.
    """

    classes: ClassList
    listings: list[Listing]
    card: JsonObject = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def resolve_labels(listings: Sequence[Listing], classes: ClassList | None) -> ResolvedLabels:
    """Return listings with numbers as labels, and the class list they count into.

    Where no class list is given, the names that a file itself gives its labels serve, else names
    derived from what stands beside the numbers, else the class names that occur, sorted naturally.

    Raises:
        ManifestError: files that name their classes differently, or mix names and numbers; a name
            that is not in the class list, or that two classes bear.
    """
    listings = list(listings)
    card: JsonObject = {}
    if classes is None and (names := _own_names(listings)) is not None:
        classes, card = ClassList.from_raw(names), {"class_names": NAME_NORMALISER}
    listings = _without_missing_words(listings, classes)
    notes = [note for listing in listings for note in listing.notes]
    if classes is None:
        named = [listing for listing in listings if _has_names(listing)]
        _refuse_mixed(named, listings)
        _refuse_quantities(named)
        classes, card = named_after_values(named) if named else derived_classes(listings)
        notes += _spellings(named) + _several_classes(named)
    else:
        notes += _numbers_called_otherwise(listings, classes)
    listings = [label_by_name(listing, classes) for listing in listings]
    return ResolvedLabels(classes, listings, card, tuple(notes))


def _own_names(listings: Sequence[Listing]) -> Sequence[str] | None:
    """Return the names that the files themselves give their labels; None where they give none."""
    named = [listing for listing in listings if listing.class_names is not None]
    for other in named[1:]:
        first, second = named[0].class_names or (), other.class_names or ()
        if list(first) != list(second):
            pairs = zip(first, second, strict=False)
            label = next((k for k, (a, b) in enumerate(pairs) if a != b), None)
            what = (
                f"{len(first)} and {len(second)} classes"
                if label is None
                else f"label {label} is {first[label]!r} and {second[label]!r}"
            )
            raise ManifestError(
                f"{named[0].where} and {other.where} name their classes differently: {what}; give "
                "them one at a time, or the class list with --classes"
            )
    return named[0].class_names if named else None


def _without_missing_words(listings: Sequence[Listing], classes: ClassList | None) -> list[Listing]:
    """Return listings in which words for a missing value are labels only where they are a class.

    It concerns a listing that has nothing but such words (``nan``, ``None``) for labels: they are
    classes if the class list, or another listing beside other names, has a class of that name.
    """
    if classes is not None:
        known = set(_lookup(classes))
    else:
        known = {
            composed(value)
            for listing in listings
            if _has_names(listing) and not only_missing_words(listing.labels)
            for value in listing.labels
            if value is not None
        }
    return [_keep_labels(listing, known) for listing in listings]


def _has_names(listing: Listing) -> bool:
    return not isinstance(listing.labels, np.ndarray)


def _keep_labels(listing: Listing, known: set[str]) -> Listing:
    """Return a listing of nothing but words for a missing value with those among ``known``."""
    if isinstance(listing.labels, np.ndarray) or not only_missing_words(listing.labels):
        return listing
    kept = [value if value in known else None for value in listing.labels]
    lost = [value for value in listing.labels if value is not None and value not in known]
    if not lost:
        return listing
    note = (
        f"{listing.where}: {len(lost)} label(s) {some(map(repr, sorted(set(lost))))} are taken as "
        "missing, not as a class"
    )
    labels = kept if any(kept) else np.full(len(kept), -1, dtype=np.int64)
    return replace(listing, labels=labels, notes=(*listing.notes, note))


def _refuse_mixed(named: Sequence[Listing], listings: Sequence[Listing]) -> None:
    numbered = next((listing for listing in listings if (listing.numbers >= 0).any()), None)
    if numbered and named:
        raise ManifestError(
            f"{named[0].where} has class names and {numbered.where} has numbers as labels"
        )


def _refuse_quantities(named: Sequence[Listing]) -> None:
    """Refuse labels that are decimal numbers, not all of them whole: quantities, not classes.

    Raises:
        ManifestError: they are.
    """
    values = {value for listing in named for value in listing.labels if value is not None}
    decimal = sorted(value for value in values if "." in value and whole_number(value) is None)
    if decimal and all(map(_NUMBER.fullmatch, values)):
        raise ManifestError(
            f"{named[0].where}: the labels are decimal numbers ({some(decimal)}), not classes: "
            "write whole numbers or names of classes (such as of ranges), or name another column "
            "with --label-column; if the numbers are names, give a file of them, one a line, with "
            "--classes"
        )


def _several_classes(named: Sequence[Listing]) -> list[str]:
    """Return what to say of labels that put together several others (``fox|owl``)."""
    values = {value for listing in named for value in listing.labels if value is not None}
    joined = [
        value
        for value in sorted(values)
        if len(parts := [part.strip() for part in _JOINED.split(value)]) > 1
        and any(part in values for part in parts)
    ]
    if not joined:
        return []
    return [
        f"{len(joined)} label(s) put together several classes ({some(map(repr, joined), 3)}): each "
        "is taken as a class of its own, for an image has one class here"
    ]


def _numbers_called_otherwise(listings: Iterable[Listing], classes: ClassList) -> list[str]:
    """Return a note where numbers serve as labels and classes bear other numbers as names.

    Raises:
        ManifestError: another listing has names as labels, so that a number may be either.
    """
    listings = list(listings)
    numbered = next((item for item in listings if (item.numbers >= 0).any()), None)
    numbers = [whole_number(name) for name in classes.names]
    called = zip(range(len(classes)), classes.names, numbers, strict=True)
    other = [f"label {k} is called {name!r}" for k, name, n in called if n not in (None, k)]
    if numbered is None or not other:
        return []
    named = next((item for item in listings if _has_names(item) and any(item.labels)), None)
    if named is not None:
        raise ManifestError(
            f"{named.where} has class names and {numbered.where} has numbers as labels, which may "
            f"be names, too ({some(other, 3)}): write labels as numbers in both"
        )
    some_names = "the names" if None not in numbers else "names"
    return [
        f"{numbered.where}: the labels are numbers, and so are {some_names} of the classes, which "
        f"differ ({some(other, 3)}): the numbers are taken as labels, not as names"
    ]


def named_after_values(listings: Iterable[Listing]) -> tuple[ClassList, JsonObject]:
    """Return the class names that occur in some listings, sorted naturally, and a card entry."""
    values = {
        composed(value) for listing in listings for value in listing.labels if value is not None
    }
    classes = ClassList.from_raw(sorted(values, key=natural_key))
    return classes, {"class_names": NAME_NORMALISER}


def _spellings(listings: Iterable[Listing]) -> list[str]:
    return one_class_notes({value for item in listings for value in item.labels if value})


def one_class_notes(names: Iterable[str]) -> list[str]:
    """Return a note for each name that occurs in several Unicode forms, which make one class."""
    forms: dict[str, list[str]] = {}
    for name in sorted(names):
        forms.setdefault(composed(name), []).append(name)
    return [
        f"the class {name!r} is written in {len(found)} Unicode forms "
        f"({some(map(ascii, found))}); they are taken as one class"
        for name, found in forms.items()
        if len(found) > 1
    ]


def label_by_name(listing: Listing, classes: ClassList) -> Listing:
    """Return ``listing`` with numbers for class names (source ids and readable forms count too).

    Unicode forms do not count: names are compared composed (NFC).

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
                value = composed(value)
                found[value] = _AMBIGUOUS if value in found else label
        table = {**found, **table}
    return table


def _find(table: dict[str, int], value: str | None) -> int | None:
    if value is None:
        return -1
    value = composed(value)
    return table.get(value, table.get(readable_name(value)))


def _complaint(value: str | None, label: int | None, classes: ClassList) -> str:
    if label == _AMBIGUOUS:
        return f"more than one class is called {value!r}; use labels or source ids instead"
    known = [name for name in (*classes.names, *classes.source_ids) if name]
    return (
        f"{value!r} is none of the {len(classes)} classes{did_you_mean(str(value), known, 3, '; ')}"
    )
