"""What the first seed of a line says of each image, and of those that a temperature fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ltcache.records import one_line

if TYPE_CHECKING:
    from ltcache.cache import Cache
    from ltcache.runs import LabelledLogits, Run

TUNED_ON = "val"
"""The split that the temperature is fitted on."""


@one_line
@dataclass(frozen=True, eq=False)
class LineLogits:
    """Logits of a line's first seed.

    Attributes:
        seed: of the run. cache: that the rows are of. rows: of the cache's manifest, (N,).
        scored: of these rows. tuning: of other rows, or None where there are none.
    """

    seed: int
    cache: Cache
    rows: np.ndarray
    scored: LabelledLogits
    tuning: LabelledLogits | None

    @classmethod
    def of(cls, run: Run, cache: Cache, split: str) -> LineLogits:
        """Classify the labelled rows of a split, and those of ``val`` where that is another."""
        from ltcache.cache import has_labels, labelled_split
        from ltcache.runs import LabelledLogits

        rows = np.asarray(cache.rows(split))[labelled_split(cache, split).positions]
        tuned = split != TUNED_ON and has_labels(cache, TUNED_ON)
        tuning = LabelledLogits.of(run, cache, TUNED_ON) if tuned else None
        return cls(run.record.seed, cache, rows, LabelledLogits.of(run, cache, split), tuning)
