"""The images of a plan: where each lies, and what is known of those that were encoded before."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ltcache.cache import NO_ROW, Cache, Plan
from ltcache.manifest import whole_table, whole_texts
from ltcache.records import one_line

_KNOWN = ("sha256", "width", "height", "error")


@dataclass(frozen=True)
class ImageItem:
    """One image.

    Args:
        uri: where it lies.
        content, width, height: as they were when it was encoded before; "" and 0: not known.
        error: why it is not to be read: it failed before, or no row names it.
    """

    uri: str
    content: str = ""
    width: int = 0
    height: int = 0
    error: str | None = None


@one_line
@dataclass(frozen=True, eq=False)
class ImageItems:
    """The images of one plan, in Arrow's form: a fifth of what lists would take.

    Args:
        first: number of the first one.
        uris: where they lie; null: no row names it.
        known: what earlier layers know: sha256, width, height, error; None for a plan that is new.
    """

    first: int
    uris: pa.StringArray
    known: pa.Table | None = None

    def between(self, start: int, stop: int) -> list[ImageItem]:
        """Return items by their numbers."""
        part = slice(start - self.first, stop - self.first)
        uris = self.uris[part].to_pylist()
        if self.known is None:
            return [ImageItem(uri) for uri in uris]
        columns = self.known.slice(part.start, part.stop - part.start).to_pydict()
        rows = zip(uris, *(columns[name] for name in _KNOWN), strict=True)
        return [
            ImageItem("", error=NO_ROW)
            if uri is None
            else ImageItem(uri, sha or "", width or 0, height or 0, error)
            for uri, sha, width, height, error in rows
        ]

    def uri(self, item: int) -> str:
        """Return where an item lies."""
        return str(self.uris[item - self.first].as_py())

    @cached_property
    def excused(self) -> np.ndarray | None:
        """bool (n,): the items that need no features; None where nothing is known."""
        if self.known is None:
            return None
        failed = pc.is_valid(self.known["error"].combine_chunks())
        return np.asarray(pc.or_(pc.is_null(self.uris), failed).to_numpy(zero_copy_only=False))


def known_items(cache: Cache, plan: Plan, items: np.ndarray, uris: pa.ChunkedArray) -> ImageItems:
    """Return the items of a plan that a finished cache has carried out.

    Args:
        items, uris: of the rows that are to have features: int64 (rows,) and strings.
    """
    rows = cache.manifest.rows
    before = _first_rows(rows["item"].to_numpy(), plan)
    known = whole_table(rows.select(_KNOWN).take(before))
    now = whole_texts(uris.take(_first_rows(items, plan)))
    return ImageItems(plan.first_item, now, known)


def _first_rows(items: np.ndarray, plan: Plan) -> pa.Array:
    """Return the first row of each item of a plan, null where it has none."""
    mine = np.flatnonzero((items >= plan.first_item) & (items < plan.end))[::-1]
    place = np.full(plan.items, -1, np.int64)
    place[items[mine] - plan.first_item] = mine
    return pa.array(place, mask=place < 0)
