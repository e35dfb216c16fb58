"""Batches into which rare images are pasted (CMO; Park et al., CVPR 2022).

A second image goes with each image of an epoch, drawn with all classes equally often. A pasted
batch shows a box of it in the place of what was there; both are augmented each for itself. A batch
has one box, which is the same on all ranks, and so its images have one share of their own labels.
Box and share are those of the cached views ``cmo:K`` (:mod:`ltcache.images.composites`), and so are
the epochs (:func:`ltcache.fit.composites_come`).

Which batches are pasted and where follows from the seed, the epoch and the number of the batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from ltcache.finetune.augmentation import counted_draws
from ltcache.images import PixelBox, paste_box

FOREGROUND = "class_balanced"
"""Name of the sampler of what is pasted (CMO with q of power 1)."""

_STREAM = 0x706173746564  # keeps these numbers apart from those of augmentations of the same seed


class ForegroundRows(NamedTuple):
    """What may be pasted in an epoch.

    Attributes:
        rows: positions of the images, int64, one for each of the epoch's order.
        probability: that a batch is pasted.
    """

    rows: Tensor
    probability: float


class PasteRequest(NamedTuple):
    """What a worker pastes into a batch: rows and their repeats, int64 (n,), and the box."""

    rows: np.ndarray
    repeats: np.ndarray
    box: PixelBox


def drawn_box(
    probability: float, size: tuple[int, int], seed: int, epoch: int, batch: int
) -> PixelBox | None:
    """Return the box of a batch, or None where it is not pasted.

    Args:
        probability: that it is. size: height and width of its images.
        seed, epoch, batch: the batch's number within the epoch; 0 .. 2**64 - 1 each.
    """
    coin, *place = counted_draws(seed, _STREAM, 0, batch, epoch).random(4).tolist()
    return paste_box(size, *place) if coin < probability else None
