"""A plot of accuracy against class frequency, one line per method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ltcache.records import committed
from ltcache.report.formats import rows_in_words
from ltcache.runs import frequency_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES = 16
"""A plot of more lines shows the baseline and the best of the others."""


def comparison_figure(comparison: Mapping[str, Any], split: str = "test") -> Figure:
    """Return a figure of the accuracy of each entry against class frequency."""
    lines = {
        entry["name"]: np.array(entry["per_class"][split], dtype=float)
        for entry in shown_entries(comparison, split)
    }
    counts = np.array(comparison["class_counts"])
    return frequency_figure(counts, lines, rows_in_words(comparison, split))


def plot_by_frequency(comparison: Mapping[str, Any], out: Path, split: str = "test") -> list[Path]:
    """Write ``accuracy_by_frequency.png`` and ``.svg`` into a directory; return their paths."""
    import matplotlib

    figure = comparison_figure(comparison, split)
    paths = [out / f"accuracy_by_frequency.{ending}" for ending in ("png", "svg")]
    with matplotlib.rc_context({"svg.hashsalt": "ltcache"}):  # equal data, equal bytes
        settings: list[dict[str, Any]] = [{"dpi": 150}, {"metadata": {"Date": None}}]
        for path, options in zip(paths, settings, strict=True):
            with committed(path) as temporary:
                figure.savefig(temporary, format=path.suffix[1:], **options)
    return paths


def shown_entries(comparison: Mapping[str, Any], split: str) -> list[Mapping[str, Any]]:
    """Return at most :data:`LINES` entries in their order: the baseline and the best others."""
    entries = list(comparison["entries"])

    def merit(entry: Mapping[str, Any]) -> tuple[bool, float]:
        score = entry["scores"][split][comparison["statistic"]]
        return entry["name"] == comparison["baseline"], -1.0 if score is None else score["mean"]

    best = sorted(entries, key=merit, reverse=True)[:LINES]
    names = {entry["name"] for entry in best}
    return [entry for entry in entries if entry["name"] in names]
