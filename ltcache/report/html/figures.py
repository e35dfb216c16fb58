"""The figures of the page, by Plotly: accuracy by class frequency, reliability, training, growth.

Plotly reads texts as a kind of HTML, so every name is escaped before it gets there.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ltcache.records import JsonObject
from ltcache.report.comparison import ComparisonEntry
from ltcache.report.html.predictions import LinePredictions
from ltcache.report.more_images import MULTIPLES, MoreImages
from ltcache.runs import by_frequency

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

SHOWN = 6
"""Lines that a figure shows at first; the others are switched on in its legend."""
_DASHES = ("solid", "dash", "dot", "dashdot")
_MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "x")
_COLOURS = ("#3b82d6", "#e0742b", "#2f9e58", "#d6455d", "#8f6bd1", "#a06a4b", "#d160ae", "#7f8791",
            "#a0a02c", "#1fa8b8")  # fmt: skip


def frequency_plot(
    entries: Sequence[ComparisonEntry], first: Sequence[str], split: str
) -> JsonObject:
    """Return accuracy against the training images of a class, one trace for each line.

    Args:
        first: the lines that are shown at first.
    """
    figure = _empty("training images of a class", "accuracy, %")
    record = entries[0].runs[0].record
    counts = np.array(record.class_counts)
    for number, entry in enumerate(entries):
        found = [_binned(counts, run.metrics[split].per_class) for run in entry.runs]
        places, accuracy = found[0][0], np.stack([values for _, values in found])
        spread = accuracy.std(axis=0, ddof=1).tolist() if len(found) > 1 else None
        figure.add_scatter(
            x=places.tolist(),
            y=accuracy.mean(axis=0).tolist(),
            error_y=None if spread is None else {"type": "data", "array": spread, "thickness": 1},
            hovertemplate="%{y:.1f} % at %{x:.0f} images",
            **_style(number, entry.name, first),
        )
    _count_images(figure, max(1, counts.min()), max(2, counts.max()))
    if record.groups.explicit is None:
        limits = (record.groups.few_below - 0.5, record.groups.many_above + 0.5)
        _add_bands(figure, limits, (max(1, int(counts.min())) * 0.8, int(counts.max()) * 1.25))
    return _plain(figure)


def _binned(counts: np.ndarray, per_class: Sequence[float | None]) -> tuple[np.ndarray, np.ndarray]:
    places, means = by_frequency(counts, np.array(per_class, dtype=float))
    return places, 100 * means


def _count_images(figure: Figure, low: float, high: float) -> None:
    """Give the horizontal axis plain numbers: 1, 2, 5, 10, 20... from below low to above high."""
    steps = [digit * 10**power for power in range(8) for digit in (1, 2, 5)]
    ticks = [step for step in steps if low / 2 <= step <= high * 2]
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{tick:,}" for tick in ticks])


def _add_bands(figure: Figure, limits: tuple[float, float], ends: tuple[float, float]) -> None:
    """Name the many-, medium- and few-shot classes above the plot, and shade the outer two."""
    edges = [ends[0], *limits, ends[1]]
    for number, name in enumerate(("few", "medium", "many")):
        low, high = max(edges[number], ends[0]), min(edges[number + 1], ends[1])
        if low >= high:
            continue
        if name != "medium":
            figure.add_shape(
                type="rect", x0=low, x1=high, y0=0, y1=1, yref="paper", layer="below",
                line_width=0, fillcolor="rgba(128,128,140,0.14)",
            )  # fmt: skip
        middle = float(np.log10(low * high) / 2)  # where an annotation lies on a log axis
        figure.add_annotation(
            x=middle, y=1, yref="paper", yanchor="bottom", text=name, showarrow=False
        )
    figure.update_xaxes(range=[float(np.log10(end)) for end in ends])


def growth_plot(found: MoreImages) -> JsonObject:
    """Return the error of each group against its images, and the curve continued."""
    figure = _empty("training images of a class, mean of the group", "error, %")
    for number, growth in enumerate(found.groups):
        errors = 100 * np.array(growth.errors)
        spread = errors.std(axis=0, ddof=1).tolist() if len(errors) > 1 else None
        figure.add_scatter(
            x=list(growth.images),
            y=errors.mean(axis=0).tolist(),
            error_y=None if spread is None else {"type": "data", "array": spread, "thickness": 1},
            hovertemplate="%{y:.1f} % with %{x:.0f} images",
            **_style(number, growth.group, [growth.group], "solid"),
        )
        ahead = growth.foretold(*(times * growth.images[-1] for times in (1, *MULTIPLES)))
        name, error = f"{growth.group}, foretold", 100 * np.array([a.error for a in ahead])
        above, below = (100 * np.array([getattr(a, end) for a in ahead]) for end in ("high", "low"))
        figure.add_scatter(
            x=[told.images for told in ahead],
            y=error.tolist(),
            error_y={
                "type": "data",
                "symmetric": False,
                "array": (above - error).tolist(),
                "arrayminus": (error - below).tolist(),
                "thickness": 1,
            },
            hovertemplate="%{y:.1f} % foretold for %{x:.0f} images",
            **_style(number, name, [name], "dash"),
        )
    images = [growth.images for growth in found.groups]
    low, high = min(map(min, images)), max(map(max, images))
    _count_images(figure, max(1, low), MULTIPLES[-1] * high)
    return _plain(figure)


def reliability_plot(lines: Sequence[LinePredictions], first: Sequence[str]) -> JsonObject:
    """Return accuracy against confidence of each line, before and after one temperature."""
    figure = _empty("confidence", "accuracy of these images, %")
    figure.add_scatter(
        x=[0, 100], y=[0, 100], mode="lines", hoverinfo="skip", name="as it should be",
        line={"color": "#888", "width": 1, "dash": "dot"},
    )  # fmt: skip
    for number, line in enumerate(lines):
        for suffix, curve, dash in (("", line.before, "dash"), (", scaled", line.after, "solid")):
            if curve is None:
                continue
            style = _style(number, line.name + suffix, [name + suffix for name in first], dash)
            figure.add_scatter(
                x=(100 * curve.confidence).tolist(),
                y=(100 * curve.accuracy).tolist(),
                customdata=curve.rows.tolist(),
                hovertemplate="%{y:.1f} % right of %{customdata} images at %{x:.1f} %",
                **style,
            )
    figure.update_xaxes(range=[0, 100])
    figure.update_yaxes(range=[0, 100])
    return _plain(figure)


def training_plot(
    histories: Mapping[str, Sequence[Mapping[str, float]]], first: Sequence[str]
) -> JsonObject:
    """Return loss and validation accuracy by epoch; stages follow one another."""
    from plotly.subplots import make_subplots

    parts = {"loss": ("training loss", 1.0), "val_mean_per_class": ("val mean/class, %", 100.0)}
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    figure.update_layout(_empty("", "").layout)
    for number, (name, history) in enumerate(histories.items()):
        for row, (key, (_, unit)) in enumerate(parts.items(), 1):
            points = [(n, unit * r[key]) for n, r in enumerate(history, 1) if key in r]
            if not points:
                continue
            style = {**_style(number, name, first), "mode": "lines", "legendgroup": name}
            x, y = (list(values) for values in zip(*points, strict=True))
            figure.add_scatter(x=x, y=y, row=row, col=1, showlegend=row == 1, **style)
    for row, (title, _) in enumerate(parts.values(), 1):
        figure.update_yaxes(title_text=title, row=row, col=1)
    figure.update_xaxes(title_text="epoch, over all stages", row=2, col=1)
    figure.update_layout(height=560)
    return _plain(figure)


def _style(number: int, name: str, first: Sequence[str], dash: str = "") -> Mapping[str, Any]:
    colour = _COLOURS[number % len(_COLOURS)]
    dash = dash or _DASHES[number // len(_COLOURS) % len(_DASHES)]
    return {
        "name": html.escape(name, quote=False),
        "mode": "lines+markers",
        "line": {"color": colour, "width": 2, "dash": dash},
        "marker": {"symbol": _MARKERS[number % len(_MARKERS)], "size": 6},
        "visible": True if name in first else "legendonly",
    }


def _empty(x: str, y: str) -> Figure:
    """Return a figure without colours of its own: the page gives them for light and dark."""
    from plotly.graph_objects import Figure

    figure = Figure(layout={"template": {"layout": {}}})
    return figure.update_layout(
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font_family="system-ui, sans-serif",
        hovermode="closest",
        showlegend=True,
        legend={"orientation": "h", "yanchor": "top", "y": -0.2, "x": 0},
        margin={"l": 55, "r": 10, "t": 50, "b": 50},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#888"},
        height=480,
        xaxis={"title": {"text": x}},
        yaxis={"title": {"text": y}},
    )


def _plain(figure: Figure) -> JsonObject:
    plain: JsonObject = json.loads(figure.to_json())
    return plain


def drawn(figures: Mapping[str, JsonObject]) -> Iterator[tuple[str, JsonObject]]:
    """Yield the figures that have a trace."""
    return ((name, figure) for name, figure in figures.items() if figure["data"])
