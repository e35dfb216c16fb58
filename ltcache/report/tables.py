"""Tables that people read and paste: one row per result, the group scheme and split beside them."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ltcache.evaluate import ClassScore
from ltcache.manifest import printable
from ltcache.metrics import Metrics, percent

COLUMNS = {
    "overall": "overall",
    "mean_per_class": "mean/class",
    "many": "many",
    "medium": "medium",
    "few": "few",
}
"""Score -> heading, in the order of the field's tables."""

_LONGEST = 18  # columns of a word that keeps its line; longer ones are folded
_KEPT = "\ue000"  # a space that no line ends at: rich ends lines at every space of Unicode


def results_table(
    results: Mapping[str, Metrics], interval_of: str = "mean_per_class", *, width: int | None = None
) -> str:
    """Return a Markdown table of results in percent, with one 95 % interval column.

    Args:
        results: name of the row -> its metrics, all of the same rows.
        interval_of: the score whose interval is printed.
        width: see :func:`markdown_table`.
    """
    heading = ["", *COLUMNS.values(), f"95 % of {COLUMNS[interval_of]}"]
    rows = []
    for name, metrics in results.items():
        scores = [percent(getattr(metrics, score)) for score in COLUMNS]
        rows.append([name, *scores, _interval(metrics, interval_of)])
    return markdown_table(heading, rows, width)


def seeds_table(summary: Mapping[str, Mapping[str, Any]], *, width: int | None = None) -> str:
    """Return a Markdown table of split -> score -> {mean, sd}, in percent as ``mean ± sd``.

    Args:
        width: see :func:`markdown_table`.
    """
    rows = []
    for split, scores in summary.items():
        rows.append([split, *(mean_and_spread(scores[score]) for score in COLUMNS)])
    return markdown_table(["split", *COLUMNS.values()], rows, width)


def classes_table(scores: Sequence[ClassScore], most: int = 50, *, width: int | None = None) -> str:
    """Return a Markdown table of classes, the least accurate first, of at most ``most`` of them.

    Args:
        width: see :func:`markdown_table`.
    """
    there = [score for score in scores if score.accuracy is not None]
    there.sort(key=lambda score: (score.accuracy, score.label))
    rows = [
        [
            score.name,
            str(score.train_rows),
            str(score.rows),
            percent(score.accuracy),
            f"{score.taken_for} ({score.times})" if score.taken_for is not None else "-",
        ]
        for score in there[:most]
    ]
    table = markdown_table(["class", "train", "rows", "accuracy", "taken for"], rows, width)
    left = len(scores) - len(rows)
    return table if not left else f"{table}\n({left} more classes are in --json)"


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


def markdown_table(
    heading: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None
) -> str:
    """Return an aligned Markdown table; the first column is text, the others are numbers.

    Args:
        width: most columns of a line. A table that is wider is wrapped in its cells, which is for
            people and no longer Markdown. What does not fit even so is left out and named below
            the table: the spreads where not all means have room beside them, then the last columns.
            None: as wide as it comes.
    """
    lines = [list(map(printable, cells)) for cells in (heading, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    if width is not None and _total(widths) > width:
        return _wrapped([list(map(_kept_together, cells)) for cells in lines], width)
    rule = ["-" * widths[0], *("-" * (column - 1) + ":" for column in widths[1:])]
    return "\n".join(_line(cells, widths) for cells in (lines[0], rule, *lines[1:]))


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + 3 * len(widths) + 1


def _kept_together(cell: str) -> str:
    """Return a cell where neither ``mean ± sd`` nor ``[low, high]`` can be broken."""
    cell = cell.replace(" ± ", f"{_KEPT}±{_KEPT}")
    return re.sub(r"(\[[-+\d.]+,) ([-+\d.]+\])", rf"\1{_KEPT}\2", cell)


def _wrapped(lines: Sequence[Sequence[str]], width: int) -> str:
    """Return a table of a heading and rows whose cells take several lines where they must."""
    lost, shown = [], _columns_with_room(lines, width)
    if any("±" in cell for cells in lines for cell in cells[shown:]):
        lost = ["± sd"]
        lines = [[name, *(cell.partition(f"{_KEPT}±")[0] for cell in row)] for name, *row in lines]
        shown = _columns_with_room(lines, width)
    columns = list(zip(*lines, strict=True))[:shown]
    fitted = _fitted([max(map(cell_len, c)) for c in columns], [*map(_least, columns)], width)
    table = Table(box=box.MARKDOWN)
    for number, name in enumerate(lines[0][:shown]):
        justify: Literal["left", "right"] = "right" if number else "left"
        table.add_column(Text(name), justify=justify, width=fitted[number], overflow="fold")
    for cells in lines[1:]:
        table.add_row(*map(Text, cells[:shown]))
    drawn = io.StringIO()
    Console(width=width, color_system=None, file=drawn).print(table)
    text = drawn.getvalue().replace(_KEPT, " ")
    drawn_lines = [line for line in text.splitlines() if line.strip()]
    said = ", ".join([*lost, *lines[0][shown:]])
    return "\n".join([*drawn_lines, f"(no room for: {said})"] if said else drawn_lines)


def _columns_with_room(lines: Sequence[Sequence[str]], width: int) -> int:
    """Return how many columns, at least 2, have room at their least width."""
    least = [_least(column) for column in zip(*lines, strict=True)]
    shown = len(least)
    while shown > 2 and _total(least[:shown]) > width:
        shown -= 1
    return shown


def _least(column: Sequence[str]) -> int:
    """Return the columns of a terminal that the longest word needs, if it is not to be folded."""
    return min(_LONGEST, max(map(_longest_word, column)))


def _fitted(widths: Sequence[int], least: Sequence[int], width: int) -> list[int]:
    """Return the widths with the widest columns narrowed, down to their least, until all fit."""
    fitted = list(widths)
    while _total(fitted) > width:
        spare = [have if have > need else 0 for have, need in zip(fitted, least, strict=True)]
        if not any(spare):
            break
        fitted[spare.index(max(spare))] -= 1
    return fitted


def _longest_word(cell: str) -> int:
    return max(map(cell_len, cell.split()), default=1)


def footnote(metrics: Metrics, split: str) -> str:
    """Return what a table must say of its numbers: split, rows, groups, how intervals are made."""
    sizes = "/".join(str(metrics.group_sizes[name]) for name in ("many", "medium", "few"))
    prior = f"; test prior: {metrics.test_prior}" if metrics.test_prior else ""
    learned = "".join(f"; {adaptation.words()}" for adaptation in metrics.adaptations)
    return (
        f"accuracy in %, {split} split, {metrics.num_rows} images of {metrics.num_units} units; "
        f"groups {metrics.group_scheme} ({sizes} classes); intervals: bootstrap over units{prior}"
        f"{learned}"
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    spaces = [" " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)]
    others = [space + cell for cell, space in zip(cells[1:], spaces[1:], strict=True)]
    return "| " + " | ".join([cells[0] + spaces[0], *others]) + " |"


def mean_and_spread(value: Mapping[str, Any] | None) -> str:
    """Return ``{mean, sd}`` in percent as ``mean ± sd``, ``-`` for None."""
    if value is None:
        return "-"
    mean = percent(value["mean"])
    return mean if value["sd"] is None else f"{mean} ± {percent(value['sd'])}"


def _interval(metrics: Metrics, score: str) -> str:
    if score not in metrics.intervals:
        return "-"
    low, high = metrics.intervals[score]
    return f"{percent(low)}–{percent(high)}"
