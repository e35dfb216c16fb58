"""Predictions as a table: aligned, one line an answer, never wider than the terminal."""

from __future__ import annotations

import csv
import io

import pytest
from rich.cells import cell_len

from ltcache.cli.predict import _WRITERS
from ltcache.cli.prediction_table import prediction_table
from ltcache.evaluate.prediction import Prediction

NAMES = ["a.png", "b\nc.png", "d\te,\"f'.png", "-x .png ", "日本/é.png", "x" * 300, "odd\udcff.png"]
FOUND = [Prediction(n, (1, 0), ("red fox", "日本 bee"), (0.9876, 0.0124)) for n in NAMES]
FOUND.append(Prediction("bad\r.png", error="no\nimage " * 40))


@pytest.mark.parametrize("room", [None, 80, 40])
def test_lines_are_aligned_and_fit(room: int | None) -> None:
    lines = list(prediction_table(FOUND, room))
    assert len(lines) == 2 + 2 * len(NAMES) + 1
    assert all(line.isprintable() and (room is None or cell_len(line) <= room) for line in lines)
    ends = {cell_len(line) for line in lines[:-1]}
    assert len(ends) == 1  # the probabilities stand below each other
    assert lines[2].split() == ["a.png", "red", "fox", "98.8", "%"]
    assert lines[3].split() == ["日本", "bee", "1.2", "%"]
    assert lines[4].startswith(r"b\nc.png") and r"bad\r.png" in lines[-1]
    assert room is not None or "x" * 300 in "".join(lines)


def test_nothing_gives_nothing() -> None:
    assert list(prediction_table([], 80)) == []


def test_csv_keeps_every_name_in_its_row() -> None:
    lines = list(_WRITERS["csv"](FOUND, 2))
    text = "".join(f"{line}\n" for line in lines)
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["image"] for row in rows] == [*NAMES[:-1], r"odd\xff.png", "bad\r.png"]
    assert rows[-1]["error"] == "no\nimage " * 40 and rows[1]["name_2"] == "日本 bee"
