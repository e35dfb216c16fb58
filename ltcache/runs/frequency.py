"""A figure of accuracy against class frequency, one line per method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 8
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


def frequency_figure(
    class_counts: np.ndarray, lines: Mapping[str, np.ndarray], words: str
) -> Figure:
    """Return a figure of the mean accuracy in bins of classes, which no window shows by itself.

    Args:
        class_counts: training images per class, (C,).
        lines: name -> accuracy per class, (C,), NaN where a class has no rows to score.
        words: which rows were scored: ``test split``.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure, colours = Figure(figsize=(8, 5), layout="constrained"), matplotlib.colormaps["tab10"]
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (name, accuracy) in enumerate(lines.items()):
        frequency, mean = by_frequency(class_counts, accuracy)
        style = _STYLES[number // 10 % len(_STYLES)]
        axes.plot(frequency, 100 * mean, style, marker="o", markersize=3, lw=1.2,
                  color=colours(number % 10), label=name)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("training images of a class (log; bins of equally many classes)")
    axes.set_ylabel(f"mean accuracy in the bin, {words}, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
