"""The images that a line gets wrong with most confidence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ltcache.report.html.pictures import CacheImages, ImageCard, ImageCards
from ltcache.report.html.predictions import LinePredictions

MISTAKES = 48
"""Images of a line, at most: a thumbnail is about 3 kB."""


def worst_mistakes(line: LinePredictions, names: Sequence[str], images: CacheImages) -> ImageCards:
    """Return the wrong rows of a line with the most confidence.

    Args:
        names: of the classes. images: of the line's cache.
    """
    wrong = np.flatnonzero(line.found.predicted != line.labels)
    worst = wrong[np.argsort(-line.found.confidence[wrong], kind="stable")][:MISTAKES]
    cards = [
        ImageCard(
            images.shown(int(line.rows[at])),
            names[line.labels[at]],
            names[line.found.predicted[at]],
            float(line.found.confidence[at]),
        )
        for at in worst
    ]
    note = f"{len(cards)} of {len(wrong)} wrong images, the most confident first."
    return ImageCards(f"{line.name}, seed {line.seed}: {note}", "taken for", cards)
