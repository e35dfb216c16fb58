"""What more images would buy: errors on nested parts of the training images, continued."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ltcache.metrics import ForetoldError, foretell, percent
from ltcache.records import JsonRecord, counted, read_record, record_there
from ltcache.tables import markdown_table

GROWTH = "more-images.json"
"""What ``ltcache more-images`` writes beside its runs."""
MULTIPLES = (1.5, 2.0, 4.0)


@dataclass(frozen=True)
class GroupGrowth(JsonRecord):
    """The error of a group of classes by its training images.

    Attributes:
        group: of the classes by all their images. classes: in it.
        images: mean of a class in each part, (P,). errors: of each seed, 0..1, (S, P).
    """

    group: str
    classes: int
    images: tuple[float, ...]
    errors: tuple[tuple[float, ...], ...]

    def foretold(self, *images: float) -> list[ForetoldError]:
        """Return the error at some images of a class: :func:`ltcache.metrics.foretell`."""
        return foretell(np.array(self.images), np.array(self.errors), images)

    def first(self, parts: int) -> GroupGrowth:
        """Return what is known of the first parts alone."""
        errors = tuple(each[:parts] for each in self.errors)
        return GroupGrowth(self.group, self.classes, self.images[:parts], errors)


@dataclass(frozen=True)
class MoreImages(JsonRecord):
    """What a method gets wrong when it is fitted on parts of the training images.

    Attributes:
        method: its name. split: that was scored. seeds: how many.
        shares: of the training images of each class, rising. groups: all classes, then each group.
    """

    method: str
    split: str
    seeds: int
    shares: tuple[float, ...]
    groups: tuple[GroupGrowth, ...]

    @classmethod
    def read(cls, folder: Path) -> MoreImages:
        """Read what ``ltcache more-images`` wrote."""
        return read_record(cls, record_there(folder / GROWTH), name=str(folder / GROWTH))


def more_images_cells(found: MoreImages) -> tuple[list[str], list[list[str]]]:
    """Return heading and rows: error in % on each part, and foretold with more images."""
    heading = ["error, %", "images of a class", *(f"{share:.0%}" for share in found.shares)]
    heading += [f"x {multiple:g}" for multiple in MULTIPLES]
    rows = []
    for growth in found.groups:
        known = [percent(float(error)) for error in np.mean(growth.errors, axis=0)]
        ahead = growth.foretold(*(multiple * growth.images[-1] for multiple in MULTIPLES))
        told = [f"{percent(a.error)} ({percent(a.low)}–{percent(a.high)})" for a in ahead]
        rows.append([growth.group, f"{growth.images[-1]:.0f}", *known, *told])
    return heading, rows


def more_images_note(found: MoreImages) -> str:
    """Return what must be said below the table."""
    return (
        f"{found.method}, {found.split} split, mean over {counted(found.seeds, 'seed')}, each with "
        "parts of its own; the images of all classes grow alike. x N: foretold by a power law for "
        "N times the images; its 95 % interval is over seeds alone, too narrow where the law does "
        "not hold."
    )


def more_images_table(found: MoreImages, *, width: int | None = None) -> str:
    """Return the table as Markdown.

    Args:
        width: see :func:`ltcache.report.markdown_table`.
    """
    heading, rows = more_images_cells(found)
    return f"{markdown_table(heading, rows, width)}\n{more_images_note(found)}"
