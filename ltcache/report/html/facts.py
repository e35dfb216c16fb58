"""What was measured, and what can be told apart: the sentences above the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ltcache.manifest import some
from ltcache.metrics import percent
from ltcache.report.comparison import ComparisonEntry
from ltcache.report.formats import Comparison, difference_interval, rows_in_words
from ltcache.report.html.cells import PageCell, PageTable
from ltcache.report.reading import ReportedRuns
from ltcache.report.standing import NAMED, best_entry, standing
from ltcache.report.tables import COLUMNS, mean_and_spread


def facts(reading: ReportedRuns) -> list[tuple[str, str]]:
    """Return what the runs were fitted on, as pairs of a term and a text."""
    records = [run.record for entry in reading.entries for run in entry.runs]
    counts = records[0].class_counts
    sources = dict.fromkeys(cache.manifest.name for cache in reading.every_cache())
    encoders = dict.fromkeys(_encoder(record.provenance or {}) for record in records)
    found = {
        "data": f"{', '.join(sources) or 'cache not found'}: {len(counts)} classes, {sum(counts)} "
        f"training images, {min(counts)} to {max(counts)} of a class",
        "encoder": "; ".join(encoders),
        "features": "; ".join(dict.fromkeys(record.field for record in records)),
        "images": ", ".join(f"{split} {rows}" for split, rows in records[0].splits.items()),
        "seeds": _seeds(reading.entries),
    }
    if records[0].splitting is not None:
        found["divided by"] = ", ".join(f"{k} {v}" for k, v in records[0].splitting.items())
    return list(found.items())


def _encoder(provenance: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {value}" for name, value in provenance.items() if value) or "-"


def _seeds(entries: Sequence[ComparisonEntry]) -> str:
    lines: dict[str, list[str]] = {}
    for entry in entries:
        seeds = ", ".join(str(seed) for seed in sorted(run.seed for run in entry.runs))
        lines.setdefault(seeds, []).append(entry.name)
    if len(lines) == 1:
        return next(iter(lines))
    return "; ".join(f"{seeds} ({some(names, NAMED)})" for seeds, names in lines.items())


def comparison_rows(reading: ReportedRuns, comparison: Comparison, split: str) -> PageTable:
    """Return the table of all lines on a split."""
    stands = standing(comparison, split)
    most = {score: _most(comparison, split, score) for score in COLUMNS}
    rows = []
    for entry, scored in zip(comparison["entries"], reading.entries, strict=True):
        scores, stand = entry["scores"][split], stands[entry["name"]]
        cells = [_score(scores[score], most[score]) for score in COLUMNS]
        ends = entry.get("interval", {}).get(split)
        cells.insert(2, _interval(ends or _mean_ends(scored, split, comparison["statistic"])))
        rows.append(
            [
                PageCell(entry["name"]),
                PageCell("not known" if stand is None else stand),
                *cells,
                PageCell.number(entry["rank"][split], 1),
                _difference(entry["difference"][split]),
                PageCell.number((entry["difference"][split] or {}).get("p"), 3),
                _difference(entry["behind_best"][split]),
            ]
        )
    names = list(COLUMNS.values())
    against = [f"vs {comparison['baseline']}", "p", f"vs {best_entry(comparison, split)}"]
    heading = ["line", "", *names[:2], f"95 % of {names[1]}", *names[2:], "rank", *against]
    caption = (
        f"Accuracy in %, {rows_in_words(comparison, split)}, mean ± sd over seeds; the interval "
        f"of {names[1]} is over images, {_seeds_of_interval(comparison)}; differences of "
        "mean/class in points with their 95 % interval."
    )
    return PageTable("comparison", caption, heading, rows)


def _seeds_of_interval(comparison: Comparison) -> str:
    folds = "folds" in comparison
    return "of the mean over seeds" if folds else "the mean of the ends over seeds"


def _most(comparison: Comparison, split: str, score: str) -> float | None:
    found = [entry["scores"][split][score] for entry in comparison["entries"]]
    return max((value["mean"] for value in found if value is not None), default=None)


def _score(value: Mapping[str, Any] | None, most: float | None) -> PageCell:
    mean = None if value is None else value["mean"]
    return PageCell(mean_and_spread(value), mean, best=mean is not None and mean == most)


def _difference(found: Mapping[str, Any] | None) -> PageCell:
    if found is None:
        return PageCell("-")
    return PageCell(difference_interval(found), found["difference"])


def _mean_ends(entry: ComparisonEntry, split: str, statistic: str) -> tuple[float, float] | None:
    """Return the mean over seeds of the ends of the intervals of single runs."""
    ends = [run.metrics[split].intervals.get(statistic) for run in entry.runs]
    known = [end for end in ends if end is not None]
    if not known:
        return None
    low, high = (sum(end[k] for end in known) / len(known) for k in (0, 1))
    return low, high


def _interval(ends: Sequence[float] | None) -> PageCell:
    return PageCell("-") if ends is None else PageCell("–".join(map(percent, ends)), ends[0])
