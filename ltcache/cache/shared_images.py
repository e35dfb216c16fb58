"""Images that stand in two splits of one cache, byte for byte: known by the digests of extraction.

A model that was fitted on such an image, or chosen by it, has seen what it is scored on.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ltcache.manifest import place_among
from ltcache.records import counted

if TYPE_CHECKING:
    from ltcache.cache.reader import Cache

_ORDER = ("train", "val", "test")


@dataclass(frozen=True)
class SharedContent:
    """Images of a split that are in another one, too.

    Args:
        split, other: the two; ``other`` is the one that comes first.
        count: images of ``split``. key, other_key: of one of them, and of the same image there.
    """

    split: str
    other: str
    count: int
    key: str
    other_key: str

    def describe(self) -> str:
        """Return the finding in words."""
        images = counted(self.count, "image")
        return f"{images} of {self.split} in {self.other} ({self.key} is {self.other_key})"


def shared_content(rows: pa.Table, splits: Sequence[str]) -> tuple[SharedContent, ...]:
    """Return what pairs of splits share, of rows whose image has a digest.

    Args:
        rows: of a cache's manifest: ``key``, ``split`` and, where they are known, ``sha256`` and
            ``status``. splits: that are compared, each with those after it.
    """
    if "sha256" not in rows.column_names:
        return ()
    known = pc.fill_null(pc.greater(pc.utf8_length(rows["sha256"]), 0), False)
    if "status" in rows.column_names:
        known = pc.and_(known, pc.equal(rows["status"], "ok"))
    rows = rows.select(["key", "split", "sha256"]).filter(known)
    parts = {name: rows.filter(pc.equal(rows["split"], name)) for name in splits}
    found = []
    for other, split in itertools.combinations(splits, 2):
        where = place_among(parts[split]["sha256"], parts[other]["sha256"])
        count = len(where) - where.null_count
        if count:
            first = pc.index(pc.is_valid(where), True).as_py()
            key = parts[split]["key"][first].as_py()
            other_key = parts[other]["key"][where[first].as_py()].as_py()
            found.append(SharedContent(split, other, count, key, other_key))
    return tuple(found)


def compared_splits(splits: Collection[str]) -> list[str]:
    """Return the splits whose images ought to differ, training first; a pool may hold anything."""
    first = [name for name in _ORDER if name in splits]
    return [*first, *(name for name in splits if name not in first and name != "pool")]


def shared_warning(found: Sequence[SharedContent], cache: object) -> str:
    """Return one line that says what splits of a cache share, and what to do."""
    return (
        f"identical images stand in two splits: {'; '.join(one.describe() for one in found)}. A "
        "score on images that were also trained or chosen on is too good; ltcache inspect "
        f"{cache} --checks shows them, and leaving them out of one split mends it"
    )


def warn_of_shared(cache: Cache, *used: str, stacklevel: int = 2) -> None:
    """Warn where two splits of a cache that are used together hold the same images.

    An opened cache says the same only once, however many seeds are fitted on it.
    """
    found = [one for one in cache.shared_content if one.split in used and one.other in used]
    if found and (text := shared_warning(found, cache.path)) not in cache.warned_of:
        cache.warned_of.add(text)
        warnings.warn(text, stacklevel=stacklevel + 1)
