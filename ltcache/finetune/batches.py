"""Images as batches of pixels: read, decoded and cut in processes beside the training.

Which rows an epoch has, and in which order, comes from a sampler; here they become even batches
(sizes differ by one at most), of which each rank reads its share. What a sample looks like follows
from the seed, the epoch, its row and how often the row came up before, so it is the same with any
number of workers and ranks.

Images that are small together are decoded once and kept; workers that are forked share them. An
image that cannot be read or decoded is left out of its batch, and named in ``failures``.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from ltcache.errors import FitError, LtcacheError, UsageError
from ltcache.finetune.augmentation import Augmentation
from ltcache.finetune.pasting import ForegroundRows, PasteRequest, drawn_box
from ltcache.finetune.reader import BatchRequest, ImageBatch, PixelReader, none_readable
from ltcache.images import Preprocessing
from ltcache.manifest import Manifest, missing_split, unlabelled_split, whole_texts
from ltcache.process import launched_process, usable_processors

KEEP = 1 << 29
"""Bytes of decoded images, over all of them, up to which they are kept in memory."""

_AHEAD = 2  # batches that each worker prepares in advance
_TELLING = 8  # a batch of so many images none of which can be read means that the images are gone
_MEMORY = Path("/dev/shm")


class ImageBatches:
    """The labelled images of a split, in batches.

    Args:
        manifest, split: where the images are; rows without a label are left out.
        preprocessing: the encoder's, for the size of the pixels.
        augmentation: what happens to each image.
        batch: images of a step over all ranks.
        seed: of the augmentation, 0 .. 2**64 - 1.
        workers: loading processes; 0 loads in this one; None: one less than the processors of this
            rank, at least one.
        rank, ranks: which of how many processes this is; a batch's shares, in order of rank, are
            the batch of one process.
        keep: see :data:`KEEP`; 0 decodes anew each time.
        pin: put batches into page-locked memory, for faster copies to a GPU.
        start_method: ``fork``, ``spawn`` or ``forkserver``; None: the platform's.

    Attributes:
        labels: int64 (N,), what a sampler draws from. index: their row numbers in the manifest.
        failures: uri -> reason, of images that could not be read so far, in this rank's shares, and
            in all ranks' at the end of an epoch of a training.

    Raises:
        FitError: the split has no labelled rows.
        ManifestError: the manifest has no root, or it cannot be opened.
        UsageError: a number outside its range.
        ImageError: images are kept, and none of them can be decoded.
    """

    def __init__(
        self,
        manifest: Manifest,
        split: str,
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        *,
        batch: int,
        seed: int = 0,
        workers: int | None = None,
        rank: int = 0,
        ranks: int = 1,
        keep: int = KEEP,
        pin: bool = False,
        start_method: str | None = None,
    ) -> None:
        _require(
            batch >= ranks,
            f"optimisation.batch={batch} must be at least 1 for each of {ranks} ranks",
        )
        _require(0 <= seed < 1 << 64, f"--seed {seed} must be 0 to 2**64 - 1")
        _require(workers is None or workers >= 0, f"--workers {workers} must be at least 0")
        index = manifest.indices(split)
        labels = manifest.labels(split)
        self.index = index[labels >= 0]
        self.labels = torch.from_numpy(labels[labels >= 0])
        if not len(self.index):
            said = (
                unlabelled_split(split, len(labels))
                if split in manifest.splits
                else missing_split(split, manifest.splits)
            )
            raise FitError(f"{manifest.name}: {said}")
        self.batch, self.rank, self.ranks = batch, rank, ranks
        self.failures: dict[str, str] = {}
        uris = whole_texts(manifest.rows["uri"].take(pa.array(self.index)))
        self._reader = PixelReader(
            manifest.root, uris, self.index, self.labels.numpy(), preprocessing, augmentation, seed
        )
        workers = _default_workers() if workers is None else workers
        self._reader.keep(keep, max(1, workers))
        self.workers = _within_memory(workers, -(-batch // ranks), preprocessing)
        self._plan = _EpochSampler()
        self._loader = self._loading(pin, start_method)

    def _loading(self, pin: bool, start_method: str | None) -> DataLoader[Any]:
        with _as_many_workers_as_asked():
            return DataLoader(
                self._reader,
                sampler=self._plan,
                batch_size=None,
                num_workers=self.workers,
                collate_fn=_as_it_is,
                persistent_workers=self.workers > 0,
                prefetch_factor=_AHEAD if self.workers else None,
                pin_memory=pin,
                multiprocessing_context=start_method if self.workers else None,
                generator=torch.Generator(),  # seeds of workers are not drawn from the training's
            )

    def __len__(self) -> int:
        """The number of labelled images, N."""
        return len(self.index)

    def steps(self, rows: int | None = None) -> int:
        """Return the number of batches of an epoch of ``rows`` rows, of all N by default."""
        return -(-(len(self) if rows is None else rows) // self.batch)

    def epoch(
        self,
        order: Tensor | np.ndarray | None = None,
        *,
        epoch: int = 0,
        epochs: int = 1,
        start: int = 0,
        foregrounds: ForegroundRows | None = None,
    ) -> Iterator[ImageBatch]:
        """Yield this rank's share of the batches of an epoch; it has a row at least.

        Args:
            order: positions 0..N-1, int64, as a sampler of :mod:`ltcache.sampling` draws them; the
                same on every rank. None: each once, in order.
            epoch, epochs: number of the epoch, from 0, and how many there are: what an
                augmentation that changes over the training goes by.
            start: batches that are passed over without being read (after a resume).
            foregrounds: what to paste into some batches; the same on every rank. One that cannot
                be read leaves its image as it is, with its own label twice. None: nothing.

        Raises:
            ImageError: no image of the epoch can be read; or none of a batch, where that means
                that all are gone or would let other ranks wait.
            UsageError: fewer rows than ranks in a batch.
        """
        order = np.arange(len(self)) if order is None else np.asarray(order, np.int64)
        wanted = self._wanted(order, epoch, epochs)
        if foregrounds is not None:
            wanted = self._with_foregrounds(wanted, order, foregrounds)
        self._plan.wanted = wanted[start:]
        found = 0
        parts = zip(self._plan.wanted, self._parts(), strict=True)
        for number, (request, part) in enumerate(parts, start):
            if isinstance(part, LtcacheError):
                raise part
            self.failures |= part.failed
            found += len(part.batch.rows)
            gone = not len(part.batch.rows)
            if gone and (self.ranks > 1 or len(request.rows) >= _TELLING):
                raise none_readable(part.failed)
            if not gone:
                yield part.batch._replace(number=number)
        if not found and self._plan.wanted:
            raise none_readable(self.failures)

    def close(self) -> None:
        """End the loading processes; a later epoch begins new ones."""
        self._loader._iterator = None

    def __enter__(self) -> ImageBatches:
        """Nothing is opened before the first epoch."""
        return self

    def __exit__(self, *_: object) -> None:
        """See :meth:`close`."""
        self.close()

    def _wanted(self, order: np.ndarray, epoch: int, epochs: int) -> list[BatchRequest]:
        steps = self.steps(len(order))
        _require(
            len(order) // max(1, steps) >= self.ranks,
            f"{len(order)} images in batches of {self.batch} leave none for some of {self.ranks} "
            "ranks: take larger batches or fewer ranks",
        )
        progress = epoch / max(1, epochs - 1)
        return [
            BatchRequest(rows, repeats, epoch, progress)
            for rows, repeats in zip(
                self._shares(order, steps), self._shares(_repeats(order), steps), strict=True
            )
        ]

    def _with_foregrounds(
        self, wanted: list[BatchRequest], order: np.ndarray, foregrounds: ForegroundRows
    ) -> list[BatchRequest]:
        """Return an epoch's requests, with what some of them are to paste."""
        reader, steps = self._reader, len(wanted)
        rows = np.asarray(foregrounds.rows, np.int64)
        repeats = _repeats(np.concatenate([order, rows]))[len(order) :]
        parts = zip(wanted, self._shares(rows, steps), self._shares(repeats, steps), strict=True)
        found = []
        for number, (request, pasted, again) in enumerate(parts):
            box = drawn_box(
                foregrounds.probability, reader.preprocessing.size, reader.seed, request.epoch,
                number,
            )  # fmt: skip
            paste = None if box is None else PasteRequest(pasted, again, box)
            found.append(request._replace(paste=paste))
        return found

    def _shares(self, values: np.ndarray, steps: int) -> list[np.ndarray]:
        batches = np.array_split(values, max(1, steps))
        return [np.array_split(batch, self.ranks)[self.rank] for batch in batches]

    def _parts(self) -> Iterator[Any]:
        with _as_many_workers_as_asked():
            parts = iter(self._loader)
        try:
            yield from parts
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise FitError(
                f"a loading process ended: {error}. Memory or {_MEMORY} may be too small: take "
                "fewer workers, or none (--workers 0)"
            ) from None


class _EpochSampler(Sampler[BatchRequest]):
    """The batches of the epoch at hand, which persistent workers are asked for one by one."""

    def __init__(self) -> None:
        self.wanted: list[BatchRequest] = []

    def __iter__(self) -> Iterator[BatchRequest]:
        return iter(self.wanted)

    def __len__(self) -> int:
        return len(self.wanted)


def _repeats(order: np.ndarray) -> np.ndarray:
    """Return how many times each value of (E,) came up before its place."""
    by_value = np.argsort(order, kind="stable")
    ordered = order[by_value]
    repeats = np.empty_like(order)
    repeats[by_value] = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return repeats


def _default_workers() -> int:
    """Return one less than the processors that this rank has, at least one."""
    return max(1, usable_processors() // launched_process().local_size - 1)


def _within_memory(workers: int, batch: int, preprocessing: Preprocessing) -> int:
    """Return how many workers' batches fit into shared memory, which containers often have little
    of; going over it ends a process without a word."""
    if not workers or not _MEMORY.is_dir():
        return workers
    height, width = preprocessing.size
    each = batch * 3 * height * width * (_AHEAD + 1)
    return min(workers, shutil.disk_usage(_MEMORY).free // 2 // each)


@contextmanager
def _as_many_workers_as_asked() -> Iterator[None]:
    """Keep torch from warning of more processes than processors: they may wait for a network."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")
        yield


def _as_it_is(part: Any) -> Any:
    return part


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)
