"""Encoding one shard: its micro-batches through the encoder, in slices that fit its memory.

Each crop of a view goes through the encoder in a micro-batch of its own, so that a view has the
same bits whether it is made together with others or added later.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ltcache.extract.reader import DecodedBatch
from ltcache.extract.report import StageSeconds
from ltcache.extract.shard import EncodedShard, Pending, ShardQueue, ShardToEncode

if TYPE_CHECKING:
    from ltcache.encoder import Encoder, PendingFeatures


def encode_shard(
    queue: ShardQueue,
    work: ShardToEncode,
    batches: Iterator[DecodedBatch],
    encoder: Encoder,
    stages: StageSeconds,
) -> EncodedShard:
    """Encode one shard; on a GPU the features of a batch are fetched while the next one runs.

    Where another process commits the shard meanwhile, the rest of its batches is only passed over,
    and what is returned is not complete.
    """
    plan = queue.plan
    items = plan.item_range(work.shard)
    shard = EncodedShard(work, items, plan.micro_batch)
    depth = 1 if encoder.device.type == "cuda" else 0
    running: deque[tuple[int, DecodedBatch, dict[str, Pending]]] = deque()
    needed = True
    for position in range(0, len(items), plan.micro_batch):
        started = time.perf_counter()
        batch = next(batches)
        if not (needed := needed and bool(queue.lacking(work.shard).layers)):
            continue
        decoded = time.perf_counter()
        running.append((position, batch, _submit_views(work, batch, encoder, shard.limits)))
        if len(running) > depth:
            shard.add(*running.popleft())
        stages.decode += decoded - started
        stages.encode += time.perf_counter() - decoded
    while running:
        shard.add(*running.popleft())
    return shard


def _submit_views(
    work: ShardToEncode, batch: DecodedBatch, encoder: Encoder, limits: dict[str, int]
) -> dict[str, Pending]:
    """Start to encode every crop of every view; ``limits`` shrink where memory runs out."""
    pending: dict[str, Pending] = {}
    for view, crops in batch.pixels.items():
        parts = []
        for pixels in crops:
            part, limits[view] = submit_within_memory(
                encoder, pixels, work.fields(view), limits[view]
            )
            parts.append(part)
        pending[view] = parts
    return pending


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
    return isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text
