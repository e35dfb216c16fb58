"""Reading: the images of shards as micro-batches of pixels, decoded ahead in threads.

Order and composition of the batches are the plan's alone, so the pixels do not depend on how many
threads decode them. An image is decoded once for all views that its shard lacks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ltcache.cache import Plan
from ltcache.errors import ImageError
from ltcache.extract.items import ImageItem, ImageItems
from ltcache.images import ImageStore, PartnerImages, Preprocessing, View, decode_views
from ltcache.records import bytes_digest, one_line

if TYPE_CHECKING:
    from ltcache.extract.shard import ShardToEncode

_CHUNK = 8  # images in one decoding task: few enough to balance, many enough to be cheap


@one_line
@dataclass
class DecodedBatch:
    """One micro-batch: view -> pixels uint8 (crops, n, 3, H, W), zeros for items that failed.

    ``excused`` are the positions of those whose failure was known before.
    """

    pixels: dict[str, np.ndarray]
    content: list[str] = field(default_factory=list)
    width: list[int] = field(default_factory=list)
    height: list[int] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)
    excused: set[int] = field(default_factory=set)


@dataclass(frozen=True, eq=False)
class BatchReader:
    """Reads and decodes the images of a plan, a bounded number of micro-batches ahead.

    Args:
        plan: which images make a shard and a micro-batch.
        items: its images. store: where their bytes come from.
        preprocessing: from an image to the encoder's pixels.
        pool: of ``workers`` decoding threads.
        partners: what composites are made with.
    """

    plan: Plan
    items: ImageItems
    store: ImageStore
    preprocessing: Preprocessing
    pool: ThreadPoolExecutor
    workers: int
    partners: PartnerImages | None = None

    def batches(self, shards: Iterable[ShardToEncode]) -> Iterator[DecodedBatch]:
        """Yield the micro-batches of shards, in order."""
        ahead = 2 + -(-self.workers * _CHUNK // self.plan.micro_batch)
        waiting: deque[tuple[DecodedBatch, list[Future[list[_ItemOutcome]]]]] = deque()
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
    ) -> tuple[DecodedBatch, list[Future[list[_ItemOutcome]]]]:
        """Start to decode a micro-batch, in chunks that the threads share."""
        edges = self.preprocessing.size
        pixels = {v.name: np.zeros((v.crops, len(batch), 3, *edges), np.uint8) for v in views}
        futures = [
            self.pool.submit(
                self._decode_chunk,
                batch[i : i + _CHUNK],
                views,
                {name: crops[:, i : i + _CHUNK] for name, crops in pixels.items()},
            )
            for i in range(0, len(batch), _CHUNK)
        ]
        return DecodedBatch(pixels), futures

    def _decode_chunk(
        self, batch: Sequence[ImageItem], views: Sequence[View], out: Mapping[str, np.ndarray]
    ) -> list[_ItemOutcome]:
        """Decode images into ``out``; a bad one costs its own row only."""
        return [
            self._decode(item, views, {name: crops[:, i] for name, crops in out.items()})
            for i, item in enumerate(batch)
        ]

    def _decode(
        self, item: ImageItem, views: Sequence[View], out: Mapping[str, np.ndarray]
    ) -> _ItemOutcome:
        """Decode one image into ``out``: view -> (crops, 3, H, W)."""
        if item.error is not None:
            return _ItemOutcome(item.content, item.width, item.height, item.error, excused=True)
        content = ""
        try:
            data = self.store.read(item.uri)
            content = bytes_digest(data)
            if item.content and content != item.content:
                raise ImageError(
                    "the image has changed since it was encoded (--rehash takes it anew)"
                )
            image = decode_views(data, self.preprocessing, views, content, self.partners)
        except ImageError as error:
            return _ItemOutcome(content, 0, 0, str(error))
        for name, pixels in image.pixels.items():
            out[name][:] = pixels
        return _ItemOutcome(content, image.width, image.height)


@dataclass(frozen=True)
class _ItemOutcome:
    """What became of one item."""

    content: str
    width: int
    height: int
    error: str | None = None
    excused: bool = False


def _collect(batch: DecodedBatch, futures: Sequence[Future[list[_ItemOutcome]]]) -> DecodedBatch:
    for row in (row for future in futures for row in future.result()):
        if row.error is not None:
            batch.errors[len(batch.content)] = row.error
        if row.excused:
            batch.excused.add(len(batch.content))
        batch.content.append(row.content)
        batch.width.append(row.width)
        batch.height.append(row.height)
    return batch
