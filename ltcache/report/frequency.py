"""A plot of accuracy against class frequency, one line per method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ltcache.records import committed
from ltcache.report.formats import rows_in_words

BINS = 8
LINES = 16
"""A plot of more lines shows the baseline and the best of the others."""
_STYLES = ("-", "--", ":", "-.")


def by_frequency(
    class_counts: np.ndarray, accuracy: np.ndarray, bins: int = BINS
) -> tuple[np.ndarray, np.ndarray]:
    """Return geometric mean frequency and mean accuracy of bins of equally many classes.

    Args:
        class_counts: training images per class, (C,).
        accuracy: per class, (C,), NaN where a class has no rows to score.
    """
    there = ~np.isnan(accuracy)
    counts, values = class_counts[there], accuracy[there]
    order = np.argsort(counts, kind="stable")
    parts = [part for part in np.array_split(order, min(bins, len(order))) if len(part)]
    place = [float(np.exp(np.log(np.maximum(counts[part], 1)).mean())) for part in parts]
    return np.array(place), np.array([float(values[part].mean()) for part in parts])


def plot_by_frequency(comparison: Mapping[str, Any], out: Path, split: str = "test") -> list[Path]:
    """Write ``accuracy_by_frequency.png`` and ``.svg`` into a directory; return their paths."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw(axes, comparison, split, matplotlib.colormaps["tab10"])
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


def _draw(axes: Any, comparison: Mapping[str, Any], split: str, colours: Any) -> None:
    counts = np.array(comparison["class_counts"])
    for number, entry in enumerate(shown_entries(comparison, split)):
        accuracy = np.array(entry["per_class"][split], dtype=float)
        frequency, mean = by_frequency(counts, accuracy)
        style = _STYLES[number // 10 % len(_STYLES)]
        axes.plot(frequency, 100 * mean, style, marker="o", markersize=3, lw=1.2,
                  color=colours(number % 10), label=entry["name"])  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("training images of a class (log; bins of equally many classes)")
    axes.set_ylabel(f"mean accuracy in the bin, {rows_in_words(comparison, split)}, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5))
