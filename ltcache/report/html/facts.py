"""What was measured, and what can be told apart: the sentences above the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ltcache.metrics import percent
from ltcache.report.comparison import ComparisonEntry
from ltcache.report.formats import Comparison, difference_interval
from ltcache.report.html.cells import PageCell, PageTable
from ltcache.report.reading import ReportedRuns
from ltcache.report.tables import COLUMNS, mean_and_spread

_NAMED = 12
"""Names in a sentence, at most; the table has all."""
BEST, TIED = "best", "not told from the best"


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
    return "; ".join(f"{seeds} ({_names(names)})" for seeds, names in lines.items())


def best_entry(comparison: Comparison, split: str) -> str:
    """Return the name of the line with the highest statistic on a split; the first of equals."""
    statistic = comparison["statistic"]
    best = max(comparison["entries"], key=lambda entry: entry["scores"][split][statistic]["mean"])
    return str(best["name"])


def standing(to_best: Comparison, split: str) -> dict[str, str | None]:
    """Return name -> ``best``, ``not told from the best``, nothing (it is told), None (unknown).

    Args:
        to_best: the comparison whose baseline is the best line.
    """
    found: dict[str, str | None] = {}
    for entry in to_best["entries"]:
        difference = entry["difference"][split]
        if entry["name"] == to_best["baseline"]:
            found[entry["name"]] = BEST
        elif difference is None:
            found[entry["name"]] = None
        else:
            found[entry["name"]] = "" if difference["high"] < 0 else TIED
    return found


def verdict(to_best: Comparison, split: str) -> str:
    """Return the sentence that says what can be told from the best line and what cannot."""
    best, stands = to_best["baseline"], standing(to_best, split)
    if len(stands) == 1:
        return f"{best} stands alone: there is nothing to tell it from."
    scores = next(e["scores"][split] for e in to_best["entries"] if e["name"] == best)
    mean = percent(scores[to_best["statistic"]]["mean"])
    kinds = {
        "it can be told from": [name for name, stand in stands.items() if stand == ""],
        "it cannot be told from": [name for name, stand in stands.items() if stand == TIED],
        "nothing can be said without the cache of the runs about": [
            name for name, stand in stands.items() if stand is None
        ],
    }
    said = "; ".join(f"{words} {_names(names)}" for words, names in kinds.items() if names)
    return (
        f"{best} has the highest mean/class of these {len(stands)} on {split} ({mean} %); {said} "
        "(95 % interval of the paired difference over the same images; not corrected for the "
        "number of comparisons)."
    )


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} others" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def comparison_rows(
    reading: ReportedRuns, comparison: Comparison, to_best: Comparison, split: str
) -> PageTable:
    """Return the table of all lines on a split."""
    stands = standing(to_best, split)
    most = {score: _most(comparison, split, score) for score in COLUMNS}
    rows = []
    for entry, other, scored in zip(
        comparison["entries"], to_best["entries"], reading.entries, strict=True
    ):
        scores, stand = entry["scores"][split], stands[entry["name"]]
        cells = [_score(scores[score], most[score]) for score in COLUMNS]
        cells.insert(2, _interval_of(scored, split, to_best["statistic"]))
        rows.append(
            [
                PageCell(entry["name"]),
                PageCell("not known" if stand is None else stand),
                *cells,
                PageCell.number(entry["rank"][split], 1),
                _difference(entry["difference"][split]),
                PageCell.number((entry["difference"][split] or {}).get("p"), 3),
                _difference(other["difference"][split]),
            ]
        )
    names = list(COLUMNS.values())
    heading = ["line", "", *names[:2], f"95 % of {names[1]}", *names[2:], "rank",
               f"vs {comparison['baseline']}", "p", f"vs {to_best['baseline']}"]  # fmt: skip
    caption = (
        f"Accuracy in %, {split} split, mean ± sd over seeds; the interval of {names[1]} is over "
        "images, the mean of the ends over seeds; differences of mean/class in points with their "
        "95 % interval."
    )
    return PageTable("comparison", caption, heading, rows)


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


def _interval_of(entry: ComparisonEntry, split: str, statistic: str) -> PageCell:
    ends = [run.metrics[split].intervals.get(statistic) for run in entry.runs]
    known = [end for end in ends if end is not None]
    if not known:
        return PageCell("-")
    low, high = (sum(end[k] for end in known) / len(known) for k in (0, 1))
    return PageCell(f"{percent(low)}–{percent(high)}", low)
