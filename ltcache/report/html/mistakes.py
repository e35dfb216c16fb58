"""The images that a line gets wrong with most confidence, and those whose label looks wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ltcache.cache import open_cache
from ltcache.records import counted
from ltcache.report.html.pictures import CacheImages, ImageCard, ImageCards
from ltcache.report.html.predictions import LinePredictions
from ltcache.report.label_errors import LabelErrors

MISTAKES = 48
"""Images of a line or list, at most: a thumbnail is about 3 kB."""


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


def suspicious_images(found: LabelErrors, source: str | Path | None) -> ImageCards:
    """Return the training images whose label is the least probable.

    Args:
        source: see :meth:`CacheImages.of`.
    """
    images = CacheImages.of(open_cache(found.cache), source)
    cards = [
        ImageCard(images.shown(one.row), one.label, one.suggested, one.suggested_probability)
        for one in found.errors[:MISTAKES]
    ]
    note = (
        f"{len(cards)} of {len(found.errors)} labels that look wrong among {found.images} training "
        f"images, the least probable first; by {found.line}, {counted(found.seeds, 'seed')}, "
        "of runs that were not fitted on the image (confident learning)."
    )
    if found.not_looked_at:
        note += f" {found.not_looked_at} images are in no fold and were not looked at."
    return ImageCards(note, "looks like", cards)
