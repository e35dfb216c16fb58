"""Reading: the images of shards as micro-batches of pixels, decoded ahead.

Order and composition of the batches are the plan's alone, so the pixels do not depend on how many
threads or processes decode them. An image is decoded once for all views that its shard lacks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ltcache.cache import Layer, Plan
from ltcache.extract.items import ImageItem, ImageItems
from ltcache.images import ChunkImage, ImageOutcome, PixelMemory, Preprocessing, View, blank
from ltcache.records import one_line

if TYPE_CHECKING:
    from ltcache.extract.shard import ShardToEncode

IN_FLIGHT = 2
"""Batches that a GPU has been given and the host has not placed: one runs, one is next."""

_CHUNK = 8  # images in one decoding task: few enough to balance, many enough to be cheap


def _nothing() -> None:
    """Do nothing: the pixels of the batch have no place that others wait for."""


@one_line
@dataclass
class DecodedBatch:
    """One micro-batch: view -> pixels uint8 (crops, n, 3, H, W), zeros for items that failed.

    ``excused`` are the positions of those whose failure was known before, ``turned`` is how many
    have an orientation in their EXIF that their pixels have not. ``release`` is called once the
    pixels are not needed any more.
    """

    pixels: dict[str, np.ndarray]
    content: list[str] = field(default_factory=list)
    width: list[int] = field(default_factory=list)
    height: list[int] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)
    excused: set[int] = field(default_factory=set)
    turned: int = 0
    release: Callable[[], None] = _nothing


class ChunkDecoding(Protocol):
    """What decodes a few images: in the thread that asks, or in other processes."""

    def decode(
        self, images: Sequence[ChunkImage], views: Sequence[View], out: Mapping[str, np.ndarray]
    ) -> list[ImageOutcome]:
        """Decode images into ``out``: view -> uint8 (crops, n, 3, H, W); see ``ChunkDecoder``."""
        ...


@dataclass(frozen=True, eq=False)
class BatchReader:
    """Reads and decodes the images of a plan, a bounded number of micro-batches ahead.

    Args:
        plan: which images make a shard and a micro-batch.
        items: its images.
        size: height and width of a crop in pixels.
        decoder: what fills the pixels of a few images.
        memory: where the pixels are.
        pool: of ``workers`` threads, which ask the decoder.
    """

    plan: Plan
    items: ImageItems
    size: tuple[int, int]
    decoder: ChunkDecoding
    memory: PixelMemory
    pool: ThreadPoolExecutor
    workers: int

    def batches(self, shards: Iterable[ShardToEncode]) -> Iterator[DecodedBatch]:
        """Yield the micro-batches of shards, in order.

        Of those that were taken, as many may wait for their release as the memory was made for.
        """
        ahead = _batches_ahead(self.plan, self.workers)
        waiting: deque[tuple[DecodedBatch, list[Future[list[ImageOutcome]]]]] = deque()
        for views, batch in self._micro_batches(shards):
            waiting.append(self._submit(batch, views))
            if len(waiting) > ahead:
                yield _collect(*waiting.popleft())
        while waiting:
            yield _collect(*waiting.popleft())

    def _micro_batches(
        self, shards: Iterable[ShardToEncode]
    ) -> Iterator[tuple[list[View], list[ImageItem]]]:
        size = self.plan.micro_batch
        for shard in shards:
            numbers = self.plan.item_range(shard.shard)
            for first in range(numbers.start, numbers.stop, size):
                yield shard.views, self.items.between(first, min(first + size, numbers.stop))

    def _submit(
        self, batch: Sequence[ImageItem], views: Sequence[View]
    ) -> tuple[DecodedBatch, list[Future[list[ImageOutcome]]]]:
        """Start to decode a micro-batch, in chunks that the threads share."""
        shapes = {view.name: (view.crops, len(batch), 3, *self.size) for view in views}
        slot, pixels = self.memory.take(shapes)
        futures = [
            self.pool.submit(
                self._decode_chunk,
                batch[i : i + _CHUNK],
                views,
                {name: crops[:, i : i + _CHUNK] for name, crops in pixels.items()},
            )
            for i in range(0, len(batch), _CHUNK)
        ]
        return DecodedBatch(pixels, release=partial(self.memory.give_back, slot)), futures

    def _decode_chunk(
        self, batch: Sequence[ImageItem], views: Sequence[View], out: Mapping[str, np.ndarray]
    ) -> list[ImageOutcome]:
        """Decode images into ``out``, but for those that are known to have failed."""
        outcomes: dict[int, ImageOutcome] = {}
        for row, item in enumerate(batch):
            if item.error is not None:
                blank({name: crops[:, row] for name, crops in out.items()})
                outcomes[row] = ImageOutcome(
                    item.content, item.width, item.height, item.error, excused=True
                )
        for start, stop in _runs([row for row in range(len(batch)) if row not in outcomes]):
            images = [ChunkImage(item.uri, item.content) for item in batch[start:stop]]
            part = {name: crops[:, start:stop] for name, crops in out.items()}
            outcomes |= enumerate(self.decoder.decode(images, views, part), start)
        return [outcomes[row] for row in range(len(batch))]


def pixel_memory(
    plan: Plan,
    layers: Sequence[Layer],
    preprocessing: Preprocessing,
    workers: int,
    *,
    in_flight: int = IN_FLIGHT,
    shared: bool = False,
) -> PixelMemory:
    """Return memory for what a :class:`BatchReader` and those that it feeds hold at a time.

    Args:
        layers: whose views an image may be decoded for.
        in_flight: batches that are encoded at once.
        shared: whether other processes fill it.
    """
    crops = {layer.name: View.from_identity(layer.view).crops for layer in layers}
    height, width = preprocessing.size
    batch = min(plan.micro_batch, plan.shard_size) * sum(crops.values()) * 3 * height * width
    slots = _batches_ahead(plan, workers) + in_flight + 2
    return PixelMemory(slots, batch, shared=shared)


def _batches_ahead(plan: Plan, workers: int) -> int:
    """Return how many micro-batches are decoded while one waits to be encoded."""
    return 2 + -(-workers * _CHUNK // plan.micro_batch)


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and the end of each unbroken run of ascending numbers."""
    start = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            yield numbers[start], numbers[at - 1] + 1
            start = at


def _collect(batch: DecodedBatch, futures: Sequence[Future[list[ImageOutcome]]]) -> DecodedBatch:
    for row in (row for future in futures for row in future.result()):
        if row.error is not None:
            batch.errors[len(batch.content)] = row.error
        if row.excused:
            batch.excused.add(len(batch.content))
        batch.turned += row.turned
        batch.content.append(row.content)
        batch.width.append(row.width)
        batch.height.append(row.height)
    return batch
