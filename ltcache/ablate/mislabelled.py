"""Label errors among training images, by the runs of an ablation on folds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from ltcache.ablate.fold_report import read_folds
from ltcache.ablate.fold_scores import fold_logits, fold_runs
from ltcache.ablate.folds import TrainFolds
from ltcache.cache import Cache
from ltcache.errors import UsageError
from ltcache.records import result_folder
from ltcache.report import LabelError, LabelErrors, on_folds, suspicious_rows


def label_errors(ablation: str | Path, cache: Cache | str | Path | None = None) -> LabelErrors:
    """Return the training images whose label looks wrong to heads that were not fitted on them.

    Args:
        ablation: what ``ltcache ablate --folds K`` wrote. Of its lines the one with the highest
            mean accuracy per class is taken, its probabilities averaged over seeds.
        cache: that it compared on; None: where the ablation says.

    Raises:
        UsageError: it does not compare on folds, cleanlab is not installed, or the images are no
            longer divided as they were. IdentityError: ``cache`` is another one.
    """
    place = result_folder(ablation)
    if not on_folds(place):
        raise UsageError(
            f"{place}: label errors are found by runs that were not fitted on the images, which "
            "ltcache ablate CACHE --methods ce --folds 5 --out FOLDS makes: name its FOLDS"
        )
    reading = read_folds(place, cache)
    opened, parts, results = reading.parts.cache, reading.parts, reading.results
    line = _best_line(results, parts.name)
    runs = [_probabilities(place / path, parts) for path in line["runs"]]
    probabilities, labels = np.mean(runs, axis=0), parts.scored_rows.labels
    errors = [
        _label_error(opened, int(parts.left_out_rows[at]), int(labels[at]), probabilities[at])
        for at in suspicious_rows(probabilities, labels)
    ]
    unlooked = len(parts.rows) - len(labels)
    return LabelErrors(str(opened.path), line["name"], len(runs), len(labels), unlooked, errors)


def _label_error(cache: Cache, row: int, label: int, probabilities: np.ndarray) -> LabelError:
    names, suggested = cache.classes.names, int(probabilities.argmax())
    return LabelError(
        row,
        cache.manifest.rows["key"][row].as_py(),
        names[label],
        names[suggested],
        float(probabilities[label]),
        float(probabilities[suggested]),
    )


def _best_line(results: Mapping[str, Any], split: str) -> Mapping[str, Any]:
    statistic = results["statistic"]
    found: Mapping[str, Any] = max(
        results["entries"], key=lambda entry: entry["scores"][split][statistic]["mean"]
    )
    return found


def _probabilities(place: Path, parts: TrainFolds) -> np.ndarray:
    """Return float64 (n, C): of each image by the run of one seed that was not fitted on it."""
    logits = fold_logits(parts, fold_runs(parts, place)).logits
    return np.asarray(softmax(logits.astype(np.float64), axis=1))
