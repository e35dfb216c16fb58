"""Images as batches of pixels: read, decoded and cut in processes beside the training.

Which rows an epoch has, and in which order, comes from a sampler; here they become even batches
(sizes differ by one at most), of which each rank reads its share. What a sample looks like follows
from the seed, the epoch, its row and how often the row came up before, so it is the same with any
number of workers and ranks.

Images that are small together are decoded once and kept; workers that are forked share them. An
image that cannot be read or decoded is left out of its batch, and named in ``failures``.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ltcache.errors import FitError, ImageError, LtcacheError, UsageError
from ltcache.finetune.augmentation import Augmentation, sample_draws
from ltcache.finetune.pasting import ForegroundRows, PasteRequest, drawn_box
from ltcache.images import (
    ImageStore,
    Preprocessing,
    open_store,
    opened,
    paste_over,
    uncovered_share,
)
from ltcache.manifest import Manifest, Root, missing_split, unlabelled_split
from ltcache.process import usable_processors
from ltcache.records import one_line

KEEP = 1 << 29
"""Bytes of decoded images, over all of them, up to which they are kept in memory."""

_AHEAD = 2  # batches that each worker prepares in advance
_SAMPLE = 64  # images whose headers tell how large a set is
_TELLING = 8  # a batch of so many images none of which can be read means that the images are gone
_MEMORY = Path("/dev/shm")


class ImageBatch(NamedTuple):
    """Images of one step, those of this rank.

    Attributes:
        pixels: uint8 (n, 3, H, W); ``preprocessing.normalise`` makes floats of them.
        labels: int64 (n,); of a pasted batch (n, 2): of each image, and of what is pasted into it.
        rows: int64 (n,), positions among the split's labelled rows.
        share: of the first labels in a pasted batch, 0..1.
    """

    pixels: Tensor
    labels: Tensor
    rows: Tensor
    share: float = 1.0


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
        failures: uri -> reason, of images that could not be read so far, in this rank's shares.

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
        _require(batch >= ranks, f"batch={batch} must be at least 1 for each of {ranks} ranks")
        _require(0 <= seed < 1 << 64, f"seed={seed} must be 0 to 2**64 - 1")
        _require(workers is None or workers >= 0, f"workers={workers} must be at least 0")
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
        uris = manifest.rows["uri"].take(pa.array(self.index)).combine_chunks()
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
        for request, part in zip(self._plan.wanted, self._parts(), strict=True):
            if isinstance(part, LtcacheError):
                raise part
            self.failures |= part.failed
            found += len(part.batch.rows)
            gone = not len(part.batch.rows)
            if gone and (self.ranks > 1 or len(request.rows) >= _TELLING):
                raise _unreadable(part.failed)
            if not gone:
                yield part.batch
        if not found and self._plan.wanted:
            raise _unreadable(self.failures)

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
                "fewer workers, or none (workers=0)"
            ) from None


class BatchRequest(NamedTuple):
    """What a worker is asked for: rows and their repeats, int64 (n,), at a time of the training,
    and what is pasted into them."""

    rows: np.ndarray
    repeats: np.ndarray
    epoch: int
    progress: float
    paste: PasteRequest | None = None


class _WorkerBatch(NamedTuple):
    """What a worker gives: the readable images, and uri -> reason of the others."""

    batch: ImageBatch
    failed: dict[str, str]


class _EpochSampler(Sampler[BatchRequest]):
    """The batches of the epoch at hand, which persistent workers are asked for one by one."""

    def __init__(self) -> None:
        self.wanted: list[BatchRequest] = []

    def __iter__(self) -> Iterator[BatchRequest]:
        return iter(self.wanted)

    def __len__(self) -> int:
        return len(self.wanted)


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

    def __getitem__(self, wanted: BatchRequest) -> _WorkerBatch | LtcacheError:
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
            raise _unreadable(dict(zip(self.uris[:1].to_pylist(), map(str, kept), strict=False)))
        self.kept = kept

    def _part(self, wanted: BatchRequest) -> _WorkerBatch:
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
        found = map(torch.from_numpy, (pixels, labels, rows))
        return _WorkerBatch(ImageBatch._make((*found, share)), failed)

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


def _repeats(order: np.ndarray) -> np.ndarray:
    """Return how many times each value of (E,) came up before its place."""
    by_value = np.argsort(order, kind="stable")
    ordered = order[by_value]
    repeats = np.empty_like(order)
    repeats[by_value] = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return repeats


def _default_workers() -> int:
    """Return one less than the processors that this rank has, at least one."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, usable_processors() // local - 1)


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


def _unreadable(failed: dict[str, str]) -> ImageError:
    uri, reason = next(iter(failed.items()))
    return ImageError(
        f"none of {len(failed)} images can be read, for example {uri}: {reason}. Bring them back, "
        "name their folder with --root, or leave them out of the list"
    )


def _as_it_is(part: Any) -> Any:
    return part


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)
