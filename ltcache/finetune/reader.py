"""Rows to pixels, in the processes beside the training: read, decoded, augmented, pasted into.

An image that cannot be read or decoded is left out of its batch, and named with the reason.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ltcache.errors import ImageError, LtcacheError
from ltcache.finetune.augmentation import Augmentation, sample_draws
from ltcache.finetune.pasting import PasteRequest
from ltcache.images import (
    ImageStore,
    Preprocessing,
    open_store,
    opened,
    paste_over,
    uncovered_share,
)
from ltcache.manifest import Root
from ltcache.records import one_line

_SAMPLE = 64  # images whose headers tell how large a set is


class ImageBatch(NamedTuple):
    """Images of one step, those of this rank.

    Attributes:
        pixels: uint8 (n, 3, H, W); ``preprocessing.normalise`` makes floats of them.
        labels: int64 (n,); of a pasted batch (n, 2): of each image, and of what is pasted into it.
        rows: int64 (n,), positions among the split's labelled rows.
        share: of the first labels in a pasted batch, 0..1.
        number: of the batch in its epoch, from 0; one of which no image can be read has one, too.
    """

    pixels: Tensor
    labels: Tensor
    rows: Tensor
    share: float = 1.0
    number: int = 0


class BatchRequest(NamedTuple):
    """What a worker is asked for: rows and their repeats, int64 (n,), at a time of the training,
    and what is pasted into them."""

    rows: np.ndarray
    repeats: np.ndarray
    epoch: int
    progress: float
    paste: PasteRequest | None = None


class WorkerBatch(NamedTuple):
    """What a worker gives: the readable images, and uri -> reason of the others."""

    batch: ImageBatch
    failed: dict[str, str]


@one_line
@dataclass(eq=False)
class PixelReader(Dataset[Any]):
    """Rows to pixels; goes to each worker, which opens the images' root for itself.

    Attributes:
        uris, index, labels: of the rows, (N,).
        kept: decoded images, or the reasons of those that failed; None: they are decoded anew.
    """

    root: Root | None
    uris: pa.StringArray
    index: np.ndarray
    labels: np.ndarray
    preprocessing: Preprocessing
    augmentation: Augmentation
    seed: int
    kept: list[Image.Image | str] | None = None

    def __post_init__(self) -> None:
        self._opened: tuple[int, ImageStore] | None = None
        self._store()  # a root that is missing is an error now, not in a worker

    def __getstate__(self) -> dict[str, Any]:
        """Return all but the open store, which cannot be sent."""
        return {**self.__dict__, "_opened": None}

    def __getitem__(self, wanted: BatchRequest) -> WorkerBatch | LtcacheError:
        """Return a batch; an error is returned, as torch would wrap it beyond recognition."""
        try:
            return self._part(wanted)
        except LtcacheError as error:
            return error

    def keep(self, limit: int, workers: int) -> None:
        """Decode all images and keep them, where they are not too large together."""
        if self._decoded_size() > limit:
            return
        with ThreadPoolExecutor(workers, "decode") as pool:
            kept = list(pool.map(self._image_or_reason, range(len(self.uris))))
        if all(isinstance(image, str) for image in kept):
            raise none_readable(dict(zip(self.uris[:1].to_pylist(), map(str, kept), strict=False)))
        self.kept = kept

    def _part(self, wanted: BatchRequest) -> WorkerBatch:
        height, width = self.preprocessing.size
        pixels = np.empty((len(wanted.rows), 3, height, width), np.uint8)
        good: list[int] = []
        failed: dict[str, str] = {}
        for place in range(len(wanted.rows)):
            sample = self._sample(wanted.rows[place], wanted.repeats[place], wanted, failed)
            if sample is not None:
                pixels[len(good)] = sample
                good.append(place)
        rows = wanted.rows[np.array(good, np.int64)]
        pixels, labels, share = pixels[: len(good)], self.labels[rows], 1.0
        if wanted.paste is not None:
            pasted = self._paste(pixels, rows, good, wanted, failed)
            labels = np.stack([labels, self.labels[pasted]], axis=1)
            share = uncovered_share(self.preprocessing.size, wanted.paste.box)
        found = [torch.from_numpy(values) for values in (pixels, labels, rows)]
        return WorkerBatch(ImageBatch(found[0], found[1], found[2], share), failed)

    def _paste(
        self,
        pixels: np.ndarray,
        rows: np.ndarray,
        good: list[int],
        wanted: BatchRequest,
        failed: dict[str, str],
    ) -> np.ndarray:
        """Paste into the readable images of a batch, in place; return which rows, int64 (n,).

        Args:
            pixels: uint8 (n, 3, H, W). rows: of the images. good: their places in ``wanted``.
        """
        assert wanted.paste is not None
        pasted = rows.copy()
        for number, place in enumerate(good):
            row, repeat = wanted.paste.rows[place], wanted.paste.repeats[place]
            sample = self._sample(row, repeat, wanted, failed)
            if sample is not None:
                paste_over(pixels[number], sample, wanted.paste.box)
                pasted[number] = row
        return pasted

    def _sample(
        self, row: np.int64, repeat: np.int64, wanted: BatchRequest, failed: dict[str, str]
    ) -> np.ndarray | None:
        """Return the pixels of a row, uint8 (3, H, W), or None and the reason in ``failed``."""
        image = self._image_or_reason(int(row)) if self.kept is None else self.kept[row]
        if isinstance(image, str):
            failed[self.uris[int(row)].as_py()] = image
            return None
        draws = sample_draws(self.seed, wanted.epoch, int(self.index[row]), int(repeat))
        return self.augmentation(image, self.preprocessing, draws, wanted.progress)

    def _image_or_reason(self, row: int) -> Image.Image | str:
        try:
            with opened(self._store().read(self.uris[row].as_py())) as image:
                image.load()
                image.info.clear()  # a colour called transparent would be dropped with a warning
                return image.convert("RGB") if self.preprocessing.rgb_first else image.copy()
        except ImageError as error:
            return str(error)

    def _store(self) -> ImageStore:
        """Return the images' store; file handles must not be shared with another process."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), open_store(self.root)
        return self._opened[1]

    def _decoded_size(self) -> float:
        """Return about how many bytes all images take, from the headers of some."""
        places = np.unique(np.linspace(0, len(self.uris) - 1, _SAMPLE).astype(int)).tolist()
        sizes = []
        for row in places:
            with (
                suppress(ImageError),
                opened(self._store().read(self.uris[row].as_py())) as image,
            ):
                # Pillow takes four bytes for a pixel of several bands
                sizes.append(image.width * image.height * (1 if len(image.getbands()) == 1 else 4))
        return float(np.mean(sizes)) * len(self.uris) if sizes else 0.0


def none_readable(failed: dict[str, str]) -> ImageError:
    """Return the error of images none of which can be read, uri -> reason."""
    uri, reason = next(iter(failed.items()))
    return ImageError(
        f"none of {len(failed)} images can be read, for example {uri}: {reason}. Bring them back, "
        "name their folder with --root, or leave them out of the list"
    )
