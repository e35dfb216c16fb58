"""Tables fit the terminal they are printed on; in a file they are Markdown of any width."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from ltcache.cli import options
from ltcache.tables import markdown_table

HEADING = ["", "overall", "mean/class", "many", "medium", "few", "95 % of mean/class"]
ROWS = [
    [name, "37.6", "35.9", "45.3", "27.7", "40.2", "32.5–39.5"]
    for name in ("logit-adjustment, val", "cross entropy, class-balanced", "zero-shot")
]


def test_without_a_width_or_with_enough_it_is_markdown() -> None:
    table = markdown_table(HEADING, ROWS)
    first, rule, *lines = table.splitlines()
    assert set(rule) == set("|-: ") and len(lines) == len(ROWS)
    assert len(first) > 80
    assert markdown_table(HEADING, ROWS, len(first)) == table


@pytest.mark.parametrize("width", [84, 80])
def test_a_narrow_terminal_wraps_words_and_keeps_every_one(width: int) -> None:
    table = markdown_table(HEADING, ROWS, width)
    assert max(map(cell_len, table.splitlines())) <= width
    for line in (HEADING, *ROWS):
        for word in " ".join(line).split():
            assert word in table
    assert "no room" not in table


def test_columns_that_cannot_fit_are_named() -> None:
    heading = ["method", *(f"column_{number:02d}" for number in range(12))]
    table = markdown_table(heading, [["ce", *["12.5"] * 12]], 80)
    *lines, note = table.splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert "column_04" in lines[0] and "column_05" not in lines[0]
    assert note == f"(no room for: {', '.join(heading[6:])})"


def test_long_names_are_folded_and_wide_letters_counted() -> None:
    name = "子犬" * 30
    table = markdown_table(["class", "taken"], [[name, "3"], ["x" * 90, "4"]], 40)
    assert {cell_len(line) for line in table.splitlines()} == {40}
    assert table.count("子") == 30 and table.count("x") == 90
    wide = markdown_table(["class", "taken"], [[name, "3"], ["ox", "4"]])
    assert len({cell_len(line) for line in wide.splitlines()}) == 1


def test_only_a_terminal_has_a_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "72")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert options.terminal_width() == 72
    monkeypatch.setattr("sys.stdout.isatty", lambda: False)
    assert options.terminal_width() is None


@pytest.mark.parametrize("width", [60, 80, 90, 100, 120])
def test_a_mean_and_its_spread_are_never_on_two_lines(width: int) -> None:
    heading = ["", "overall", "mean/class", "few", "vs_ce", "p", "seconds"]
    cells = ["45.2 ± 0.6", "44.8 ± 0.6", "38.9 ± 1.0", "+1.2 [-0.3, +2.5]", "0.123", "1.2"]
    table = markdown_table(heading, [["logit-adjustment~", *cells]], width)
    lines = table.splitlines()
    assert max(map(cell_len, lines)) <= width
    said = lines[-1].removeprefix("(no room for: ").removesuffix(")").split(", ")
    missing = [name for name in heading[1:] if name not in lines[0]]
    whole = all(cell in table for cell in cells[:3])
    assert said == ([] if whole else ["± sd"]) + missing or (whole and not missing)
    assert all(cell[:4] in lines[2] for cell in cells[:3])
    assert whole or "45.2 ±" not in table
    assert ("[-0.3, +2.5]" in table) == ("vs_ce" in lines[0])
