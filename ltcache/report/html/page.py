"""A report as one HTML file that opens from disk: nothing is loaded from elsewhere.

See :func:`ltcache.pages.write_page`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltcache.errors import UsageError
from ltcache.extras import how_to_install
from ltcache.pages import write_page
from ltcache.records import counted, json_element, require_local
from ltcache.report.formats import (
    Comparison,
    remarks,
    require_split,
    rows_in_words,
    usual_split,
)
from ltcache.report.frequency import shown_entries
from ltcache.report.html.cells import PageCell, PageTable
from ltcache.report.html.classes import class_table
from ltcache.report.html.facts import comparison_rows, facts
from ltcache.report.html.figures import (
    SHOWN,
    drawn,
    frequency_plot,
    growth_plot,
    reliability_plot,
    training_plot,
)
from ltcache.report.html.growth import growth_table
from ltcache.report.html.mistakes import suspicious_images, worst_mistakes
from ltcache.report.html.pairs import pairs_table
from ltcache.report.html.pictures import CacheImages
from ltcache.report.html.predictions import LinePredictions, calibration_table, predict_lines
from ltcache.report.label_errors import LabelErrors
from ltcache.report.more_images import MoreImages
from ltcache.report.reading import ReportedRuns
from ltcache.report.standing import best_entry, verdict

_COSTS = {
    "head_seconds": "fit, s",
    "encoder_passes": "encoder passes over the images",
    "extraction_seconds": "extraction, s",
    "finetune_seconds": "tuning of the encoder, s",
}


@dataclass(frozen=True)
class PageSize:
    """What was written: the page, and its size in bytes."""

    path: Path
    bytes: int


def write_report_page(
    reading: ReportedRuns,
    out: str | Path,
    *,
    baseline: str | None = None,
    split: str | None = None,
    source: str | Path | None = None,
    label_errors: Sequence[LabelErrors] = (),
    more_images: Sequence[MoreImages] = (),
) -> PageSize:
    """Write the page of runs.

    Args:
        reading: see :func:`ltcache.report.read_runs`.
        out: the file.
        baseline: what differences are taken to: see :func:`ltcache.report.report`.
        split: that the page is about; None: test, or the folds of an ablation on folds.
        source: what the cache was extracted from: its images; None: where it says that they are.
        label_errors: training images whose label looks wrong, to be shown as well.
        more_images: errors by training images, to be continued.

    Raises:
        ManifestError: ``source`` cannot be read.
        UsageError: Plotly is not installed, the runs have no scores on the split in common, no such
            baseline, or an address in place of a file.
    """
    path, plotly = require_local(out), _plotly_source()
    comparison = reading.compared(baseline)
    split = split or usual_split(comparison)
    content = _content(reading, comparison, split, source)
    grown = {f"growth-{number}": growth_plot(found) for number, found in enumerate(more_images)}
    figures = {**content["figures"], **grown}
    size = write_page(
        path,
        Path(__file__).with_name("page.html"),
        f"{counted(len(reading.entries), 'line')} on {split}",
        [json_element("page", {"figures": figures})],
        library=plotly,
        label_errors=[suspicious_images(found, source) for found in label_errors],
        growth=[growth_table(found, number) for number, found in enumerate(more_images)],
        **{**content, "figures": figures},
    )
    return PageSize(path, size)


def _plotly_source() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise UsageError(
            f"--html needs Plotly, which is not installed: {how_to_install('report')}, or leave "
            "--html out for a table"
        ) from None
    return str(get_plotlyjs())


def _content(
    reading: ReportedRuns, comparison: Comparison, split: str, source: str | Path | None
) -> Mapping[str, Any]:
    """Return what stands on the page, as data."""
    require_split(comparison, split)
    best = best_entry(comparison, split)
    entries = shown_entries(comparison, split)
    names = [str(entry["name"]) for entry in entries]
    lines = predict_lines(reading, names, split)
    compared = [lines[n] for n in dict.fromkeys([comparison["baseline"], best]) if n in lines]
    scored = [entry for entry in reading.entries if entry.name in names]
    first = _shown_first(comparison, entries, best, split)
    runs = reading.first_runs()
    histories = {name: runs[name][0].history for name in names}
    tables = {
        "comparison": comparison_rows(reading, comparison, split),
        "classes": class_table(reading, comparison, entries, split, lines.get(best)),
        "cost": cost_table(comparison),
    }
    if "folds" in comparison:
        tables["folds"] = folds_table(comparison)
    figures = {
        "frequency": frequency_plot(scored, first, split),
        "training": training_plot(histories, first),
    }
    cards = []
    if compared:
        counts = comparison["class_counts"]
        images = _images(compared, source)
        tables["pairs"] = pairs_table(compared, reading.class_names, counts, images)
        tables["calibration"] = calibration_table(list(lines.values()))
        figures["reliability"] = reliability_plot(
            list(lines.values()), [line.name for line in compared]
        )
        cards = [
            worst_mistakes(line, reading.class_names, images[line.cache.path]) for line in compared
        ]
    return {
        "words": rows_in_words(comparison, split),
        "facts": facts(reading),
        "remarks": remarks(comparison, split),
        "verdict": verdict(comparison, split),
        "left_out": len(reading.entries) - len(names),
        "tables": tables,
        "figures": dict(drawn(figures)),
        "mistakes": cards,
    }


def _images(
    lines: Sequence[LinePredictions], source: str | Path | None
) -> Mapping[Path, CacheImages]:
    """Return path -> images, of the caches of some lines."""
    caches = {line.cache.path: line.cache for line in lines}
    return {path: CacheImages.of(cache, source) for path, cache in caches.items()}


def _shown_first(
    comparison: Comparison, entries: Sequence[Mapping[str, Any]], best: str, split: str
) -> list[str]:
    """Return the lines that figures show at first: the baseline and the best ones."""
    statistic = comparison["statistic"]
    order = sorted(entries, key=lambda entry: -entry["scores"][split][statistic]["mean"])
    names = [comparison["baseline"], best, *(str(entry["name"]) for entry in order)]
    return list(dict.fromkeys(names))[:SHOWN]


def folds_table(comparison: Comparison) -> PageTable:
    """Return mean/class of each line in each fold, mean over seeds."""
    rows = [
        [PageCell(entry["name"]), *map(PageCell.percent, entry["by_fold"])]
        for entry in comparison["entries"]
    ]
    heading = ["line", *(f"fold {k}" for k in range(1, comparison["folds"]["folds"] + 1))]
    caption = "mean/class in each fold, %, mean over seeds: of the classes that the fold holds."
    return PageTable("folds", caption, heading, rows)


def cost_table(comparison: Comparison) -> PageTable:
    """Return what each line has cost, mean over seeds."""
    rows = [
        [PageCell(e["name"]), *(PageCell.number(e["cost"].get(key), 1) for key in _COSTS)]
        for e in comparison["entries"]
    ]
    heading = ["line", *_COSTS.values()]
    return PageTable("cost", "Cost of one run, mean over seeds.", heading, rows)
