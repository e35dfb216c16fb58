"""Tables that people read and paste: one row per result, the group scheme and split beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ltcache.manifest.text import printable
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


def seeds_table(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a Markdown table of split -> score -> {mean, sd}, in percent as ``mean ± sd``."""
    rows = []
    for split, scores in summary.items():
        rows.append([split, *(_spread(scores[score]) for score in COLUMNS)])
    return markdown_table(["split", *COLUMNS.values()], rows)


def details(metrics: Metrics) -> str:
    """Return the scores beyond the table's as one line: means, worst class, calibration."""
    shown = {
        "harmonic mean": percent(metrics.harmonic_mean),
        "geometric mean": percent(metrics.geometric_mean),
        "worst class": percent(metrics.worst_class),
        "macro-F1": percent(metrics.macro_f1),
        "many - few": percent(metrics.head_tail_gap),
        "ECE (15 bins)": percent(metrics.ece),
        "NLL": f"{metrics.nll:.3f}",
    }
    stale = f"; allowed stale: {', '.join(metrics.stale)}" if metrics.stale else ""
    return ", ".join(f"{name} {value}" for name, value in shown.items()) + stale


def markdown_table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned Markdown table; the first column is text, the others are numbers."""
    heading, *rows = [list(map(printable, cells)) for cells in (heading, *rows)]
    widths = [max(len(line[i]) for line in (heading, *rows)) for i in range(len(heading))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(_line(cells, widths) for cells in (heading, rule, *rows))


def footnote(metrics: Metrics, split: str) -> str:
    """Return what a table must say of its numbers: split, rows, groups, how intervals are made."""
    sizes = "/".join(str(metrics.group_sizes[name]) for name in ("many", "medium", "few"))
    prior = f"; test prior: {metrics.test_prior}" if metrics.test_prior else ""
    return (
        f"accuracy in %, {split} split, {metrics.num_rows} images of {metrics.num_units} units; "
        f"groups {metrics.group_scheme} ({sizes} classes); intervals: bootstrap over units{prior}"
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first = cells[0].ljust(widths[0])
    others = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return "| " + " | ".join([first, *others]) + " |"


def _spread(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "-"
    mean = percent(value["mean"])
    return mean if value["sd"] is None else f"{mean} ± {percent(value['sd'])}"


def _interval(metrics: Metrics, score: str) -> str:
    if score not in metrics.intervals:
        return "-"
    low, high = metrics.intervals[score]
    return f"{percent(low)}–{percent(high)}"
