"""Aligned Markdown tables that fit a terminal; nothing here knows what stands in the cells."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ltcache.manifest import printable

_LONGEST = 18  # columns of a word that keeps its line; longer ones are folded
_KEPT = "\ue000"  # a space that no line ends at: rich ends lines at every space of Unicode


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


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    spaces = [" " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)]
    others = [space + cell for cell, space in zip(cells[1:], spaces[1:], strict=True)]
    return "| " + " | ".join([cells[0] + spaces[0], *others]) + " |"
