"""The classes of a manifest for people: their images in each split, and a histogram of sizes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ltcache.examine.inspection import ClassSizes

_ALL = 30  # classes that are all listed
_ENDS = 10  # of more, the largest and the smallest
_WIDEST = 40  # characters of the longest bar


def class_lines(classes: Sequence[ClassSizes], counted_on: str | None) -> list[str]:
    """Return a table of the classes, the largest first, and a histogram of their sizes.

    Args:
        counted_on: the split that sizes are counted on; None without labels: no lines.
    """
    if counted_on is None:
        return []
    from ltcache.tables import markdown_table

    largest = sorted(classes, key=lambda one: (-one.counts[counted_on], one.label))
    shown = largest if len(largest) <= _ALL else [*largest[:_ENDS], *largest[-_ENDS:]]
    splits = list(classes[0].counts)
    rows = [[one.name, str(one.label), *(str(one.counts[s]) for s in splits)] for one in shown]
    if len(shown) < len(largest):
        more = len(largest) - len(shown)
        rows.insert(_ENDS, [f"... {more} more (--json)", *[""] * (1 + len(splits))])
    table = markdown_table(["class", "label", *splits], rows).splitlines()
    sizes = [one.counts[counted_on] for one in classes]
    return [*table, f"classes by their images in {counted_on}:", *_histogram(sizes)]


def _histogram(sizes: Sequence[int]) -> list[str]:
    """Return a bar for each range of sizes: 0, 1, 2-4, 5-9, 10-19, 20-49, 50-99 and so on."""
    starts = [0, *(step * 10**power for power in range(9) for step in (1, 2, 5))]
    ranges = [(low, high - 1) for low, high in itertools.pairwise(starts)]
    found = Counter(next(span for span in ranges if span[0] <= n <= span[1]) for n in sizes)
    spans = [span for span in ranges if min(found) <= span <= max(found)]
    names = [str(low) if low == high else f"{low}-{high}" for low, high in spans]
    widest, most = max(map(len, names)), max(found.values())
    return [
        f"  {name:>{widest}}  {'#' * -(-_WIDEST * found[span] // most)} {found[span]}"
        for name, span in zip(names, spans, strict=True)
    ]
