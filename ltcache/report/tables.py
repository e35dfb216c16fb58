"""Tables that people read and paste: one row per result, the group scheme and split beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ltcache.evaluate import ClassScore
from ltcache.metrics import Metrics, percent
from ltcache.tables import markdown_table

COLUMNS = {
    "overall": "overall",
    "mean_per_class": "mean/class",
    "many": "many",
    "medium": "medium",
    "few": "few",
}
"""Score -> heading, in the order of the field's tables."""


def results_table(
    results: Mapping[str, Metrics], interval_of: str = "mean_per_class", *, width: int | None = None
) -> str:
    """Return a Markdown table of results in percent, with one 95 % interval column.

    Args:
        results: name of the row -> its metrics, all of the same rows.
        interval_of: the score whose interval is printed.
        width: see :func:`ltcache.tables.markdown_table`.
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
        width: see :func:`ltcache.tables.markdown_table`.
    """
    rows = []
    for split, scores in summary.items():
        rows.append([split, *(mean_and_spread(scores[score]) for score in COLUMNS)])
    return markdown_table(["split", *COLUMNS.values()], rows, width)


def classes_table(scores: Sequence[ClassScore], most: int = 50, *, width: int | None = None) -> str:
    """Return a Markdown table of classes, the least accurate first, of at most ``most`` of them.

    Args:
        width: see :func:`ltcache.tables.markdown_table`.
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
