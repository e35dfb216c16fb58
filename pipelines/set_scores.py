"""What the methods score on a data set, kept as CSV so that ranks over sets can be made of it."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ltcache.ablate import Ablation
from ltcache.cache import Cache
from pipelines.comparisons import STATISTICS

SCORES = "scores.csv"
COLUMNS = ("set", "images", "texts", "method", *STATISTICS)


@dataclass(frozen=True)
class SetScores:
    """What one set says of methods.

    Args:
        images: of training. texts: whether classes have texts.
        scores: statistic -> method -> its value on test, mean over seeds, a fraction; without the
            groups that the set has no class of.
    """

    images: int
    texts: bool
    scores: dict[str, dict[str, float]]

    @classmethod
    def of(cls, cache: Cache, found: Ablation) -> SetScores:
        """Return what an ablation of a cache says."""
        entries = {entry["name"]: entry["scores"]["test"] for entry in found.comparison["entries"]}
        scores = {
            statistic: {
                name: score[statistic]["mean"]
                for name, score in entries.items()
                if score[statistic] is not None
            }
            for statistic in STATISTICS
        }
        there = {statistic: values for statistic, values in scores.items() if values}
        return cls(int(cache.class_counts("train").sum()), bool(cache.prompt_names), there)


def keep_scores(file: Path, name: str, of_set: SetScores) -> None:
    """Put a set's scores into a file of scores, in place of those that the set had there."""
    write_scores(file, {**kept_scores(file), name: of_set})


def kept_scores(file: Path) -> dict[str, SetScores]:
    """Read a file of scores that may not be there yet."""
    return read_scores(file) if file.is_file() else {}


def write_scores(file: Path, sets: Mapping[str, SetScores]) -> None:
    """Write scores in percent, a line for each set and method."""
    rows = [
        [name, of_set.images, int(of_set.texts), method,
         *(_cell(of_set.scores.get(statistic, {}).get(method)) for statistic in STATISTICS)]
        for name, of_set in sets.items()
        for method in of_set.scores[STATISTICS[0]]
    ]  # fmt: skip
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *rows])


def read_scores(file: Path) -> dict[str, SetScores]:
    """Read what :func:`write_scores` has written: set -> its scores."""
    found: dict[str, SetScores] = {}
    with file.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            of_set = found.setdefault(
                row["set"], SetScores(int(row["images"]), row["texts"] == "1", {})
            )
            for statistic in STATISTICS:
                if row[statistic]:
                    of_statistic = of_set.scores.setdefault(statistic, {})
                    of_statistic[row["method"]] = float(row[statistic]) / 100
    return found


def _cell(score: float | None) -> str:
    return "" if score is None else f"{100 * score:.2f}"
