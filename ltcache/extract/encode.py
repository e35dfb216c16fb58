"""Encoding: micro-batches through the encoder in slices that fit its memory, shard after shard.

Each crop of a view goes through the encoder in a micro-batch of its own, so that a view has the
same bits whether it is made together with others or added later. On a GPU a batch runs while the
one before it is placed, also where that is the last of its shard: the device is not drained there.
On a CPU several batches run at once (:mod:`ltcache.process.passes`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ltcache.extract.reader import IN_FLIGHT, DecodedBatch
from ltcache.extract.report import ExtractionTally
from ltcache.extract.shard import EncodedShard, Pending, ShardQueue, ShardToEncode
from ltcache.process import ConcurrentPasses
from ltcache.records import one_line

if TYPE_CHECKING:
    from ltcache.encoder import Encoder, PendingFeatures


@one_line
@dataclass(frozen=True, eq=False)
class _RunningBatch:
    """A micro-batch of a shard that the encoder has been given.

    Args:
        batch, pending: None where the shard is not needed any more.
        last: whether the shard has no batch after it.
    """

    shard: EncodedShard
    position: int
    batch: DecodedBatch | None
    pending: dict[str, Sequence[Pending]] | None
    last: bool

    def place(self) -> None:
        """Wait for the features and place them in the shard."""
        if self.batch is not None and self.pending is not None:
            self.shard.add(self.position, self.batch, self.pending)
            self.batch.release()


def encode_shards(
    queue: ShardQueue,
    shards: Iterable[ShardToEncode],
    batches: Iterator[DecodedBatch],
    encoder: Encoder,
    tally: ExtractionTally,
    at_once: int = 1,
) -> Iterator[EncodedShard]:
    """Yield shards as all their batches are placed; by then a GPU has work of the next one.

    Args:
        at_once: passes that the device is given at once.

    Where another process commits a shard meanwhile, the rest of its batches is only passed over,
    and what is yielded is not complete. Before an error is raised the shards are yielded that the
    encoder had been given as a whole.
    """
    depth = at_once if at_once > 1 else 0  # one more than run waits behind them
    if encoder.device.type == "cuda":
        depth = IN_FLIGHT
    running: deque[_RunningBatch] = deque()
    with ConcurrentPasses(at_once) as passes:
        try:
            for shard in shards:
                for batch in _submit_shard(queue, shard, batches, encoder, tally, passes):
                    running.append(batch)
                    if len(running) > depth:
                        yield from _placed(running.popleft(), tally)
        except Exception:
            while any(batch.last for batch in running):
                yield from _placed(running.popleft(), tally)
            raise
        while running:
            yield from _placed(running.popleft(), tally)


def _submit_shard(
    queue: ShardQueue,
    work: ShardToEncode,
    batches: Iterator[DecodedBatch],
    encoder: Encoder,
    tally: ExtractionTally,
    passes: ConcurrentPasses,
) -> Iterator[_RunningBatch]:
    """Yield the micro-batches of a shard, each once the encoder was given it."""
    size, items = queue.plan.micro_batch, queue.plan.item_range(work.shard)
    shard = EncodedShard(work, items, size)
    needed = True
    for position in range(0, len(items), size):
        last = position + size >= len(items)
        started = time.perf_counter()
        batch = next(batches)
        if not (needed := needed and bool(queue.lacking(work.shard).layers)):
            batch.release()
            yield _RunningBatch(shard, position, None, None, last)
            continue
        decoded = time.perf_counter()
        pending = _submit_views(work, batch, encoder, shard.limits, passes)
        tally.decode += decoded - started
        tally.turned += batch.turned
        tally.encode += time.perf_counter() - decoded
        yield _RunningBatch(shard, position, batch, pending, last)


def _placed(running: _RunningBatch, tally: ExtractionTally) -> Iterator[EncodedShard]:
    """Place a batch, and yield its shard if nothing of it is left."""
    started = time.perf_counter()
    running.place()
    tally.encode += time.perf_counter() - started
    if running.last:
        yield running.shard


def _submit_views(
    work: ShardToEncode,
    batch: DecodedBatch,
    encoder: Encoder,
    limits: dict[str, int],
    passes: ConcurrentPasses,
) -> dict[str, Sequence[Pending]]:
    """Start to encode every crop of every view; ``limits`` shrink where memory runs out."""

    def encode(view: str, pixels: np.ndarray) -> list[PendingFeatures]:
        found, limit = submit_within_memory(encoder, pixels, work.fields(view), limits[view])
        limits[view] = min(limits[view], limit)
        return found

    return {
        view: [passes.submit(encode, view, pixels) for pixels in crops]
        for view, crops in batch.pixels.items()
    }


def submit_within_memory(
    encoder: Encoder, pixels: np.ndarray, fields: tuple[str, ...], limit: int
) -> tuple[list[PendingFeatures], int]:
    """Start to encode a micro-batch in slices of at most ``limit``, halved while memory runs out.

    Returns:
        The slices' features to come, in order, and the limit that fitted.
    """
    import torch

    while True:
        slices = np.split(pixels, range(limit, len(pixels), limit))
        try:
            return [encoder.submit(torch.from_numpy(part), fields) for part in slices], limit
        except (MemoryError, RuntimeError) as error:
            if limit == 1 or not _out_of_memory(error):
                raise
            limit = max(1, min(limit, len(pixels)) // 2)


def _out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    said = ("out of memory", "allocate memory", "status_alloc_failed")  # the last by cuBLAS, cuDNN
    return isinstance(error, MemoryError) or any(words in text for words in said)
