"""Tables of the page, as data: what a cell says and what it is sorted by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ltcache.metrics import percent
from ltcache.records import one_line
from ltcache.report.html.pictures import ShownImage


@dataclass(frozen=True)
class PageCell:
    """One cell.

    Args:
        text: what is read, plain text. value: what a column is sorted by; None: by the text.
        best: whether it is the best of its column. images: what stands before the text.
    """

    text: str
    value: float | None = None
    best: bool = False
    images: Sequence[ShownImage] = ()

    @classmethod
    def percent(cls, value: float | None, *, signed: bool = False) -> PageCell:
        """Return a fraction in percent, or a difference of two in points with its sign."""
        if value is not None and signed:
            return cls(f"{100 * value:+.1f}", value)
        return cls(percent(value), value)

    @classmethod
    def number(cls, value: float | None, digits: int = 0) -> PageCell:
        """Return a number, ``-`` where there is none."""
        return cls("-" if value is None else f"{value:.{digits}f}", value)


@one_line
@dataclass(frozen=True, eq=False)
class PageTable:
    """One table.

    Args:
        name: its id on the page. caption: what stands above it. heading: of each column.
        rows: of as many cells. searched: whether it has a field that rows are searched with.
    """

    name: str
    caption: str
    heading: Sequence[str]
    rows: Sequence[Sequence[PageCell]]
    searched: bool = False
