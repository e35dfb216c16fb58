"""Tables that people read and paste: one row per result, the group scheme and split beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ltcache.metrics import Metrics, percent

COLUMNS = {
    "overall": "overall",
    "mean_per_class": "mean/class",
    "many": "many",
    "medium": "medium",
    "few": "few",
}
"""Score -> heading, in the order of the field's tables."""


def results_table(results: Mapping[str, Metrics], interval_of: str = "mean_per_class") -> str:
    """Return a Markdown table of results in percent, with one 95 % interval column.

    Args:
        results: name of the row -> its metrics, all of the same rows.
        interval_of: the score whose interval is printed.
    """
    heading = ["", *COLUMNS.values(), f"95 % of {COLUMNS[interval_of]}"]
    rows = []
    for name, metrics in results.items():
        scores = [percent(getattr(metrics, score)) for score in COLUMNS]
        rows.append([name, *scores, _interval(metrics, interval_of)])
    return markdown_table(heading, rows)


def markdown_table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned Markdown table; the first column is text, the others are numbers."""
    widths = [max(len(line[i]) for line in (heading, *rows)) for i in range(len(heading))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(_line(cells, widths) for cells in (heading, rule, *rows))


def footnote(metrics: Metrics, split: str) -> str:
    """Return what a table must say of its numbers: split, rows, groups, how intervals are made."""
    sizes = "/".join(str(metrics.group_sizes[name]) for name in ("many", "medium", "few"))
    return (
        f"accuracy in %, {split} split, {metrics.num_rows} images of {metrics.num_units} units; "
        f"groups {metrics.group_scheme} ({sizes} classes); intervals: bootstrap over units"
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first = cells[0].ljust(widths[0])
    others = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return "| " + " | ".join([first, *others]) + " |"


def _interval(metrics: Metrics, score: str) -> str:
    if score not in metrics.intervals:
        return "-"
    low, high = metrics.intervals[score]
    return f"{percent(low)}–{percent(high)}"
