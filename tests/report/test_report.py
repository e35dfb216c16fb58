"""Formats of a comparison read back; bins of the plot; escaping."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltcache.errors import UsageError
from ltcache.metrics import GroupScheme, evaluate_logits
from ltcache.report import (
    WRITERS,
    ComparisonEntry,
    ScoredRows,
    ScoredRun,
    compare,
    comparison_table,
)
from ltcache.report.formats import latex_text
from ltcache.report.frequency import LINES, plot_by_frequency, shown_entries
from ltcache.runs import RunCost
from tests.fakes import run_record

COUNTS = np.array([150, 60, 10, 5])
LABELS = np.repeat(np.arange(4), 10)
RECORD = run_record(
    choices=({"epoch": 2},), class_counts=tuple(COUNTS.tolist()), cost=RunCost(1, None, 0, 0.5)
)


def _scored(seed: int, shift: float) -> ScoredRun:
    logits = np.random.default_rng(seed).normal(size=(40, 4))
    logits[np.arange(40), LABELS] += shift
    metrics = evaluate_logits(logits, LABELS, COUNTS, bootstrap=0)
    right = logits.argmax(axis=1) == LABELS
    return ScoredRun({"test": metrics}, {"test": right}, replace(RECORD, seed=seed), f"runs/{seed}")


def _comparison(**names: float) -> dict[str, Any]:
    entries = [ComparisonEntry(name, name, {}, [_scored(s, shift) for s in (0, 1)])
               for name, shift in names.items()]  # fmt: skip
    return compare(entries, {"test": ScoredRows(LABELS)}, bootstrap=200)


def test_every_format_holds_the_numbers() -> None:
    found = {**_comparison(ce=0.5, **{"a_b|c&d": 2.0}), "failures": [], "notes": ["50 % done"]}
    few = found["entries"][1]["scores"]["test"]["few"]
    shown = f"{100 * few['mean']:.1f} ± {100 * few['sd']:.1f}"
    assert shown in comparison_table(found)
    assert json.loads(WRITERS["json"](found, "test")) == found
    rows = list(csv.DictReader(io.StringIO(WRITERS["csv"](found, "test"))))
    assert float(rows[1]["few"]) == few["mean"] and float(rows[1]["few_sd"]) == few["sd"]
    assert float(rows[1]["difference_low"]) == found["entries"][1]["difference"]["test"]["low"]
    assert rows[0]["p"] == "" and rows[0]["extraction_seconds"] == ""
    tex = WRITERS["tex"](found, "test")
    assert r"a\_b|c\&d & " in tex and shown.replace("±", r"$\pm$") in tex
    assert tex.count(r"\\") == 3 and r"50 \% done" in tex
    lines = [line for line in WRITERS["md"](found, "test").splitlines() if line.startswith("|")]
    assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1 and len(lines) == 4


def test_a_group_without_rows_and_one_seed_are_dashes() -> None:
    record = replace(RECORD, groups=GroupScheme(explicit=(("many", (0, 1, 2, 3)),)))
    logits = np.eye(4)[LABELS]
    metrics = evaluate_logits(logits, LABELS, COUNTS, groups=record.groups, bootstrap=0)
    one = ScoredRun({"test": metrics}, {}, record)
    found = compare(
        [ComparisonEntry("ce", "ce", {}, [one]), ComparisonEntry("crt", "crt", {}, [one])], {}
    )
    line = comparison_table(found).splitlines()[3]
    assert [cell.strip() for cell in line.split("|")[1:-1]] == [
        "crt", "100.0", "100.0", "100.0", "-", "-", "1.5", "-", "-", "0.5", "1",
    ]  # fmt: skip


def test_the_difference_of_equal_runs_is_nothing_and_of_better_ones_is_seen() -> None:
    found = _comparison(ce=0.5, same=0.5, better=3.0)
    same, better = (entry["difference"]["test"] for entry in found["entries"][1:])
    assert same["difference"] == same["low"] == same["high"] == 0 and same["p"] == 1
    assert better["low"] > 0 and better["p"] < 0.05
    assert [entry["rank"]["test"] for entry in found["entries"]] == [2.5, 2.5, 1.0]


def test_the_best_line_is_first_and_what_cannot_be_told_from_it_is_marked() -> None:
    found = _comparison(ce=0.5, better=3.0, equal=3.0)
    table = comparison_table(found).splitlines()
    assert [line.split("|")[1].strip() for line in table[2:5]] == ["better*", "equal~", "ce"]
    assert "it can be told from ce; it cannot be told from equal" in table[-1]
    assert found["entries"][0]["behind_best"]["test"]["high"] < 0
    assert found["entries"][1]["behind_best"]["test"] is None
    assert [
        line.split("|")[1].strip() for line in WRITERS["md"](found, "test").splitlines()[2:5]
    ] == ["ce", "better", "equal"]


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(UsageError, match="no runs"):
        compare([], {})
    found = _comparison(ce=0.5)
    with pytest.raises(UsageError, match="split 'val' in common; known: test"):
        comparison_table(found, "val")
    with pytest.raises(UsageError, match="baseline 'crt' has no finished run; there are: ce"):
        compare([ComparisonEntry("ce", "ce", {}, [_scored(0, 1.0)])], {}, "crt")


def test_latex_escapes_everything_special() -> None:
    assert latex_text("\\&%$#_{}~^±–<>") == (
        r"\textbackslash{}\&\%\$\#\_\{\}\textasciitilde{}\textasciicircum{}$\pm$--$<$$>$"
    )


def test_the_plot_is_written_with_one_line_per_method(tmp_path: Path) -> None:
    found = _comparison(ce=0.5, crt=2.0)
    png, svg = plot_by_frequency(found, tmp_path)
    assert png.read_bytes().startswith(b"\x89PNG")
    text = svg.read_text()
    assert "<!-- ce -->" in text and "<!-- crt -->" in text
    plot_by_frequency(found, tmp_path)
    assert svg.read_text() == text


def test_a_plot_of_many_lines_shows_the_baseline_and_the_best() -> None:
    entries = [
        {"name": f"m{number}", "scores": {"test": {"mean_per_class": {"mean": number / 100}}}}
        for number in range(40)
    ]
    comparison = {"entries": entries, "baseline": "m0", "statistic": "mean_per_class"}
    shown = [entry["name"] for entry in shown_entries(comparison, "test")]
    assert shown == ["m0", *(f"m{number}" for number in range(40 - LINES + 1, 40))]
    few = {**comparison, "entries": entries[:5]}
    assert shown_entries(few, "test") == entries[:5]
