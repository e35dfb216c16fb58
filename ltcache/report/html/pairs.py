"""The table of confused pairs of classes, with images of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ltcache.report.confused import text_cosines
from ltcache.report.html.cells import PageCell, PageTable
from ltcache.report.html.pictures import CacheImages
from ltcache.report.html.predictions import LinePredictions

PAIRS = 60
"""Confused pairs that are listed, at most."""
_EXAMPLES = 2  # images of each class of a pair


def pairs_table(
    lines: Sequence[LinePredictions],
    names: Sequence[str],
    train_rows: Sequence[int],
    images: Mapping[Path, CacheImages],
) -> PageTable:
    """Return the pairs of classes that are most often confused by any of some lines.

    Beside a class stand some of its images that were taken for the other, beside that one some of
    its training images.

    Args:
        names: of the classes. train_rows: of each class. images: of the lines' caches, by path.
    """
    found = [{(p.label, p.predicted): p.count for p in line.confusions()} for line in lines]
    every = {pair: max(own.get(pair, 0) for own in found) for own in found for pair in own}
    most = sorted(every, key=lambda pair: (-every[pair], pair))[:PAIRS]
    sizes = np.bincount(lines[0].labels, minlength=len(names))
    cosines, examples = text_cosines(lines[0].cache), _training_examples(lines[0])
    rows = []
    for true, predicted in most:
        line = lines[int(np.argmax([own.get((true, predicted), 0) for own in found]))]
        taken = (line.labels == true) & (line.found.predicted == predicted)
        wrong = images[line.cache.path].all_shown(line.rows[taken][:_EXAMPLES])
        other = images[lines[0].cache.path].all_shown(examples[predicted])
        cells = [PageCell(names[true], images=wrong), PageCell.number(train_rows[true])]
        cells += [PageCell(names[predicted], images=other), PageCell.number(train_rows[predicted])]
        cells.append(PageCell.number(None if cosines is None else cosines[true, predicted], 3))
        for own in found:
            count = own.get((true, predicted), 0)
            share = count / sizes[true]
            cells.append(PageCell(f"{count} of {sizes[true]} ({100 * share:.0f} %)", count))
        rows.append(cells)
    heading = ["class", "training images", "taken for", "training images of that"]
    heading += ["cosine of the prompts", *(line.name for line in lines)]
    seeds = ", ".join(f"{line.name} (seed {line.seed})" for line in lines)
    caption = (
        f"Images of a class that were taken for another, by {seeds}; the first {len(rows)}. Beside "
        "the class: images that were taken for the other; beside that one: its training images."
    )
    return PageTable("pairs", caption, heading, rows, searched=True)


def _training_examples(line: LinePredictions) -> list[np.ndarray]:
    """Return the first training rows of each class in the line's cache."""
    labels, rows = line.cache.labels("train"), np.asarray(line.cache.rows("train"))
    return [rows[labels == label][:_EXAMPLES] for label in range(len(line.cache.classes))]
