"""The first of some candidates that the best is not shown to beat, by paired differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ltcache.metrics import UNGROUPED, PairedDifference, class_accuracy, paired_bootstrap
from ltcache.records import one_line


@one_line
@dataclass(frozen=True)
class PairedChoice:
    """What was chosen of some candidates, and what that rests on.

    Attributes:
        chosen: the first candidate whose difference to ``best`` may be zero.
        best: the candidate with the highest mean accuracy per class.
        scores: candidate -> mean accuracy per class, in the order of preference.
        differences: candidate -> ``best`` minus it, on the same resamples of the same units.
        unseen_classes: how many classes have no row among those, and so no part in the choice.
    """

    chosen: str
    best: str
    scores: Mapping[str, float]
    differences: Mapping[str, PairedDifference]
    unseen_classes: int

    @property
    def regret(self) -> PairedDifference:
        """What the choice costs against the best candidate."""
        return self.differences[self.chosen]

    @property
    def beaten(self) -> dict[str, PairedDifference]:
        """The differences of what comes before the chosen candidate, all above zero."""
        names = list(self.scores)
        return {name: self.differences[name] for name in names[: names.index(self.chosen)]}


def choose_first(
    right: Mapping[str, np.ndarray],
    labels: np.ndarray,
    units: np.ndarray | None,
    num_classes: int,
) -> PairedChoice:
    """Return the first candidate whose paired 95 % interval to the best contains zero.

    The spread of the best score alone would not do: two candidates are scored on the same rows, so
    that their difference is known far better than either score.

    Args:
        right: candidate -> which rows are right, (N,), the mean over seeds; the preferred first.
        labels: true classes, (N,).
        units: independent unit of each row, (N,); None: every row is its own.
        num_classes: of the set, also those that no row is of.
    """

    def difference(name: str) -> PairedDifference:
        return paired_bootstrap(right[name], right[best], labels, units, groups=ungrouped)

    ungrouped = np.full(num_classes, UNGROUPED)
    scores = {name: class_mean(values, labels, num_classes) for name, values in right.items()}
    best = max(scores, key=lambda name: scores[name])
    differences = {name: difference(name) for name in right}
    chosen = next(name for name, found in differences.items() if found.low <= 0 <= found.high)
    unseen = num_classes - len(np.unique(labels))
    return PairedChoice(chosen, best, scores, differences, unseen)


def class_mean(right: np.ndarray, labels: np.ndarray, num_classes: int) -> float:
    """Return the mean accuracy per class of rows that are right to a share, (N,)."""
    rows = np.bincount(labels, minlength=num_classes)
    accuracy = class_accuracy(np.bincount(labels, weights=right, minlength=num_classes), rows)
    return float(np.nanmean(accuracy))
