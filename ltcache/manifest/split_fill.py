"""Which split each block of images goes to: class by class as near to the shares as blocks allow.

A block is what must stay together: a unit, copies. scikit-learn's splitters do not promise what a
long tail needs: ``StratifiedShuffleSplit`` refuses a class of one image and knows no groups,
``StratifiedGroupKFold`` may leave a class without any training image and takes shares of 1/k
alone, and both depend on the order of rows. Here blocks are taken from the largest to the smallest,
each to the split that brings the counts of its classes nearest to the shares (by the sum of squared
differences), but never the last training image of a class away from training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ltcache.records import one_line

TRAIN = 0
"""The number of the training split; those that are made follow in the order of their shares."""

FREE = -1
"""In place of a split's number: a row that is to be assigned."""


@one_line
@dataclass(frozen=True, eq=False)
class ImageBlocks:
    """Images to divide.

    Args:
        labels: int64 (n,), 0..C-1.
        blocks: int64 (n,), the number of each image's block; of blocks that are alike the one
            with the lower number is taken first.
    """

    labels: np.ndarray
    blocks: np.ndarray

    @cached_property
    def sizes(self) -> np.ndarray:
        """int64 (blocks,): images of each."""
        return np.bincount(self.blocks)

    @cached_property
    def parts(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The classes of each block, and its images of each of these."""
        width = int(self.labels.max(initial=-1)) + 1
        both, counts = np.unique(self.blocks * width + self.labels, return_counts=True)
        borders = np.searchsorted(both // width, np.arange(1, len(self.sizes)))
        return np.split(both % width, borders), np.split(counts, borders)


class SplitFill:
    """Fills splits with blocks.

    Args:
        images: to divide. shares: of the splits other than train.
        placed: int64 (n,), the split that an image is in already and stays in, or FREE.
    """

    def __init__(self, images: ImageBlocks, shares: Sequence[float], placed: np.ndarray) -> None:
        self.images, self.placed = images, placed
        count = int(images.labels.max(initial=-1)) + 1
        self.total = np.bincount(images.labels, minlength=count)
        self.asked = np.array(shares)[:, None] * self.total
        held_out = np.floor(self.asked + 0.5 + 1e-9)
        whole = np.logical_and(self.total > 0, held_out.sum(axis=0) >= self.total)
        all_held_out = np.flatnonzero(whole)  # at most by one image
        above = (held_out - self.asked)[::-1, all_held_out]  # in doubt the split named last gives
        held_out[len(shares) - 1 - above.argmax(axis=0), all_held_out] -= 1
        self.quota = np.concatenate([(self.total - held_out.sum(axis=0))[None], held_out])
        self.filled = np.zeros((len(shares) + 1, count), np.int64)
        self.left = self.total.copy()  # of blocks that have no split yet
        self.split = np.full(len(images.sizes), FREE)

    def run(self) -> np.ndarray:
        """Return int64 (n,), the split of each image."""
        free = self._keep_placed()
        for block in free[np.argsort(-self.images.sizes[free], kind="stable")].tolist():
            self._put(block, self._best(block))
        for split in range(1, len(self.filled)):
            for label in np.flatnonzero((self.filled[split] == 0) & (self.total > 0)).tolist():
                self._give_one(split, label, free)
        return np.where(self.placed == FREE, self.split[self.images.blocks], self.placed)

    def _keep_placed(self) -> np.ndarray:
        """Count images that stay, add free ones of their blocks to them; return the free blocks."""
        there = np.flatnonzero(self.placed != FREE)
        votes = np.zeros((len(self.split), len(self.filled)), np.int64)
        np.add.at(votes, (self.images.blocks[there], self.placed[there]), 1)
        begun = votes.sum(axis=1) > 0
        self.split[begun] = votes[begun].argmax(axis=1)  # where most are; in doubt, in training
        rows = np.flatnonzero(begun[self.images.blocks])
        split = np.where(self.placed == FREE, self.split[self.images.blocks], self.placed)
        np.add.at(self.filled, (split[rows], self.images.labels[rows]), 1)
        np.subtract.at(self.left, self.images.labels[rows], 1)
        return np.flatnonzero(~begun)

    def _best(self, block: int) -> int:
        labels, counts = self._part(block)
        if (self.filled[TRAIN, labels] + self.left[labels] - counts < 1).any():
            return TRAIN
        excess = self.filled[:, labels] - self.quota[:, labels]
        return int((counts * (2 * excess + counts)).sum(axis=1).argmin())

    def _put(self, block: int, split: int) -> None:
        labels, counts = self._part(block)
        self.split[block] = split
        self.filled[split, labels] += counts
        self.left[labels] -= counts

    def _give_one(self, split: int, label: int, free: np.ndarray) -> None:
        """Move the smallest block of a class from training to a split that has none of it.

        Training keeps an image of each class, and at least as many as all other splits together.
        """
        mine = np.unique(self.images.blocks[self.images.labels == label])
        mine = np.intersect1d(mine[self.split[mine] == TRAIN], free, assume_unique=True)
        for block in mine[np.argsort(self.images.sizes[mine], kind="stable")].tolist():
            labels, counts = self._part(block)
            held_out = self.filled[1:, labels].sum(axis=0) + counts
            if (self.filled[TRAIN, labels] - counts >= np.maximum(1, held_out)).all():
                self.filled[TRAIN, labels] -= counts
                self.filled[split, labels] += counts
                self.split[block] = split
                return

    def _part(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        classes, counts = self.images.parts
        return classes[block], counts[block]
