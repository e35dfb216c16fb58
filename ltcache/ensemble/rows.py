"""The rows of a split that all members have, matched by the manifest's key."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ltcache.cache import independent_units
from ltcache.ensemble.members import EnsembleMember
from ltcache.ensemble.record import MissingRows, RowsRecord
from ltcache.errors import FitError, UsageError
from ltcache.records import digest, one_line

_FIRST = 5  # keys that a list of left out rows shows
_NUMBERED = re.compile(r".*/[0-9]{8}").fullmatch  # as an import names rows that have no names


@one_line
@dataclass(frozen=True, eq=False)
class AlignedRows:
    """Rows of a split that all members have, in the order of the first member's cache.

    Attributes:
        keys, labels: (N,). units: (N,) of the first cache that has units, or None.
        places: of each member, the positions of these rows in its split, (N,).
        record: what is to be said of them and of the rows that were left out.
    """

    keys: np.ndarray
    labels: np.ndarray
    units: np.ndarray | None
    places: tuple[np.ndarray, ...]
    record: RowsRecord


def align_rows(members: Sequence[EnsembleMember], split: str) -> AlignedRows:
    """Match the rows of a split by key.

    Raises:
        UsageError: no labelled row is in all. FitError: labels of a row differ.
    """
    position = [{k: i for i, k in enumerate(_keys(m, split))} for m in members]
    shared = [key for key in position[0] if all(key in other for other in position[1:])]
    places = np.array([[where[key] for key in shared] for where in position], dtype=np.int64)
    labels = np.stack([m.cache.labels(split)[p] for m, p in zip(members, places, strict=True)])
    known = labels.max(axis=0, initial=-1)
    _check_labels(members, labels, known, shared)
    keep = known >= 0
    if not keep.any():
        named = ", ".join(
            f"{m.cache.path} ({len(p)} rows)" for m, p in zip(members, position, strict=True)
        )
        raise UsageError(
            f"no labelled row of {split!r} has the same key in all of {named}; rows are matched by "
            "the manifest's key, which ltcache extract makes of the path within the source"
        )
    places = places[:, keep]
    differs = _content_differs(members, split, places)
    if differs:
        warnings.warn(
            f"{differs} of {keep.sum()} {split} rows are not the same file in all caches: their "
            "keys and labels agree, their bytes do not",
            stacklevel=3,
        )
    keys, missing = np.array(shared)[keep], _missing(members, position)
    _warn_of_numbers(members, keys)
    every = set().union(*position)
    record = RowsRecord(
        len(keys), digest(keys.tolist()), len(every) - len(shared), missing, int((~keep).sum()),
        differs,
    )  # fmt: skip
    return AlignedRows(keys, known[keep], _units(members, split, places), tuple(places), record)


def _keys(member: EnsembleMember, split: str | None) -> list[str]:
    keys = member.cache.column("key", split)
    assert keys is not None  # a manifest has keys, each once
    return list(map(str, keys.tolist()))


def _warn_of_numbers(members: Sequence[EnsembleMember], keys: np.ndarray) -> None:
    """Warn where rows of several caches are matched by keys that are nothing but their numbers."""
    several = len({member.cache.path for member in members}) > 1
    if several and any(m.cache.imported for m in members) and all(map(_NUMBERED, keys.tolist())):
        warnings.warn(
            "the imported features name no images, so that rows are matched by their number: where "
            "the sources hold them in other orders, images are mixed; import them with keys",
            stacklevel=4,
        )


def _check_labels(
    members: Sequence[EnsembleMember], labels: np.ndarray, known: np.ndarray, keys: Sequence[str]
) -> None:
    bad = ((labels >= 0) & (labels != known)).any(axis=0)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        said = ", ".join(
            f"{label} in {member.cache.path}"
            for member, label in zip(members, labels[:, first].tolist(), strict=True)
        )
        raise FitError(
            f"labels of {bad.sum()} rows differ between the caches, first of {keys[first]!r}: "
            f"{said}; extract both from the same list"
        )


def _content_differs(members: Sequence[EnsembleMember], split: str, places: np.ndarray) -> int:
    shas = [member.cache.column("sha256", split) for member in members]
    known = [sha[place] for sha, place in zip(shas, places, strict=True) if sha is not None]
    differs = np.zeros(places.shape[1], dtype=bool)
    for one, two in itertools.combinations(known, 2):
        differs |= (one != two) & (one.astype(bool)) & (two.astype(bool))
    return int(differs.sum())


def _units(members: Sequence[EnsembleMember], split: str, places: np.ndarray) -> np.ndarray | None:
    for member, place in zip(members, places, strict=True):
        units = independent_units(member.cache, split, place)
        if units is not None:
            return units
    return None


def _missing(
    members: Sequence[EnsembleMember], position: Sequence[Mapping[str, int]]
) -> dict[str, MissingRows]:
    """Return for each member that lacks rows of another which these are."""
    every = dict.fromkeys(key for where in position for key in where)
    gaps = {}
    for member, where in zip(members, position, strict=True):
        missing = [key for key in every if key not in where]
        if missing:
            elsewhere = set(_keys(member, None))
            moved = sum(key in elsewhere for key in missing)
            gaps[member.name] = MissingRows(len(missing), moved, tuple(missing[:_FIRST]))
    return gaps
