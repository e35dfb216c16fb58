"""Which classes are taken for which, over many runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ltcache.errors import UsageError
from ltcache.metrics import confused_pairs, percent
from ltcache.records import JsonRecord, counted
from ltcache.report.reading import read_runs
from ltcache.tables import markdown_table

if TYPE_CHECKING:
    from ltcache.cache import Cache


@dataclass(frozen=True)
class ConfusedClasses(JsonRecord):
    """Images of one class that runs take for another.

    Attributes:
        name: of the true class. taken_for: of the other.
        count: how many, over all runs. share: of all images of the true class in all runs.
        runs: how many runs were looked at.
        text_cosine: of the class prompts of the two, or None where the cache has none.
    """

    name: str
    taken_for: str
    count: int
    share: float
    runs: int
    text_cosine: float | None


def confusions(
    paths: Sequence[str | Path], split: str = "test", cache: Cache | str | Path | None = None
) -> list[ConfusedClasses]:
    """Return every pair of classes that runs confuse, the most frequent first.

    Args:
        paths, cache: as for :func:`ltcache.report.report`; every run needs the cache it was fitted
            on.
        split: which rows; only labelled ones count.

    Raises:
        UsageError: there are no runs, they are of an ablation on folds, or a cache is gone.
    """
    from ltcache.runs import LabelledLogits

    reading = read_runs(paths, cache)
    labels, predicted, found, runs = [], [], None, 0
    for run, path in (pair for line in reading.lines.values() for pair in line.runs):
        found = reading.cache_of(run, path)
        if found is None:
            raise UsageError(f"{path}: {reading.notes[-1]}")
        rows = LabelledLogits.of(run, found, split)
        labels.append(rows.labels)
        predicted.append(rows.logits.argmax(axis=1))
        runs += 1
    if found is None:
        raise UsageError(f"no runs to look at; {'; '.join(reading.notes)}")
    names, cosine = found.classes.names, text_cosines(found)
    return [
        ConfusedClasses(
            names[pair.label],
            names[pair.predicted],
            pair.count,
            pair.share,
            runs,
            None if cosine is None else float(cosine[pair.label, pair.predicted]),
        )
        for pair in confused_pairs(np.concatenate(labels), np.concatenate(predicted))
    ]


def confusions_table(
    found: Sequence[ConfusedClasses], split: str, most: int = 20, *, width: int | None = None
) -> str:
    """Return a Markdown table of the first ``most`` pairs.

    Args:
        width: see :func:`ltcache.report.markdown_table`.
    """
    if not found:
        return f"no image of the {split} split is classified wrongly"
    rows = [
        [
            pair.name,
            pair.taken_for,
            str(pair.count),
            percent(pair.share),
            "-" if pair.text_cosine is None else f"{pair.text_cosine:.3f}",
        ]
        for pair in found[:most]
    ]
    table = markdown_table(["class", "taken for", "images", "% of class", "texts"], rows, width)
    left = len(found) - len(rows)
    more = f"; {left} more pairs are in --json" if left > 0 else ""
    return (
        f"{table}\n{split} split, {counted(found[0].runs, 'run')} together; texts: cosine of the "
        f"class prompts{more}"
    )


def text_cosines(cache: Cache) -> np.ndarray | None:
    """Return (C, C), the cosines of the mean class prompts of the first set; None: no prompts."""
    if not cache.prompt_names:
        return None
    mean = cache.prompts(cache.prompt_names[0]).mean
    unit = mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
    return np.asarray(unit @ unit.T)
