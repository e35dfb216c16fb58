"""What a run predicts for the rows that it is scored on: image by image, and class by class."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ltcache.cache import labelled_split
from ltcache.evaluate.evaluation import cache_of
from ltcache.evaluate.prediction import most_probable
from ltcache.metrics import class_accuracy, confused_pairs
from ltcache.records import JsonRecord, committed
from ltcache.runs import LabelledLogits, Run, check_features, open_run

if TYPE_CHECKING:
    from ltcache.cache import Cache


@dataclass(frozen=True)
class ClassScore(JsonRecord):
    """What became of the rows of one class.

    Attributes:
        label, name: the class. train_rows: its images in training.
        rows: its rows that were scored. accuracy: of them, None where there are none.
        taken_for: the class that most of its wrong rows were predicted to be, or None.
        times: how many were.
    """

    label: int
    name: str
    train_rows: int
    rows: int
    accuracy: float | None
    taken_for: str | None
    times: int


def split_predictions(
    run: Run | str | Path,
    cache: Cache | str | Path | None = None,
    split: str = "test",
    allow_stale: Collection[str] = (),
    *,
    top: int = 5,
) -> pa.Table:
    """Return what a run predicts for each labelled row of a split, in the order of the cache.

    Args:
        run, cache, split, allow_stale: see :func:`ltcache.evaluate.evaluate`.
        top: classes to name for each row; all where there are fewer.

    Returns:
        Columns ``run`` (name of its folder), ``key``, ``label``, and, most probable first,
        ``labels``, ``names`` and ``probabilities`` (softmax over all classes), as in
        :class:`ltcache.evaluate.Prediction`.

    Raises:
        IdentityError, UsageError: see :func:`ltcache.evaluate.evaluate`.
    """
    run = open_run(run)
    opened, rows = _scored(run, cache, split, allow_stale)
    keys = opened.manifest.rows["key"].take(pa.array(_row_numbers(opened, split)))
    labels, probabilities = most_probable(rows.logits, top)
    names = np.array(opened.classes.names, dtype=object)[labels]
    name = "" if run.path is None else run.path.name
    return pa.table(
        {
            "run": pa.array([name] * len(labels), pa.string()),
            "key": keys,
            "label": rows.labels,
            "labels": pa.array(labels.tolist(), pa.list_(pa.int64())),
            "names": pa.array(names.tolist(), pa.list_(pa.string())),
            "probabilities": pa.array(probabilities.tolist(), pa.list_(pa.float64())),
        }
    )


def write_predictions(tables: Sequence[pa.Table], path: str | Path) -> None:
    """Write predictions of one or several runs as one parquet file, replaced in one step."""
    with committed(Path(path)) as temporary:
        pq.write_table(pa.concat_tables(tables), temporary)


def class_scores(
    run: Run | str | Path,
    cache: Cache | str | Path | None = None,
    split: str = "test",
    allow_stale: Collection[str] = (),
) -> list[ClassScore]:
    """Return the score of each class and what it is mostly taken for, in the order of the labels.

    Args:
        run, cache, split, allow_stale: see :func:`ltcache.evaluate.evaluate`.

    Raises:
        IdentityError, UsageError: see :func:`ltcache.evaluate.evaluate`.
    """
    run = open_run(run)
    opened, found = _scored(run, cache, split, allow_stale)
    names, count = opened.classes.names, len(opened.classes)
    pairs = confused_pairs(found.labels, found.logits.argmax(axis=1))
    most = {pair.label: pair for pair in reversed(pairs)}  # the most frequent one stays
    rows = np.bincount(found.labels, minlength=count)
    right = np.bincount(found.labels[found.right], minlength=count)
    return [
        ClassScore(
            label,
            names[label],
            run.record.class_counts[label],
            int(rows[label]),
            None if np.isnan(accuracy) else float(accuracy),
            names[most[label].predicted] if label in most else None,
            most[label].count if label in most else 0,
        )
        for label, accuracy in enumerate(class_accuracy(right, rows))
    ]


def _scored(
    run: Run, cache: Cache | str | Path | None, split: str, allow_stale: Collection[str]
) -> tuple[Cache, LabelledLogits]:
    opened = cache_of(run, cache)
    check_features(run, opened, allow_stale)
    return opened, LabelledLogits.of(run, opened, split)


def _row_numbers(cache: Cache, split: str) -> np.ndarray:
    return np.asarray(cache.rows(split)[labelled_split(cache, split).positions])
