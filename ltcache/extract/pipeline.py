"""The overlapped loop of extraction: read and decode in threads, encode here, commit in a thread.

Decoding runs ahead by a few micro-batches; the shard before is flushed to disk while the next one
is encoded. Order, batch composition and shard borders are the plan's alone, so the result does not
depend on how many threads decode.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ltcache.cache import Plan, ShardRecord, commit_shard
from ltcache.cache.cost import add_cost
from ltcache.cache.fingerprint import bytes_digest
from ltcache.errors import ImageError
from ltcache.images import ImageStore, Preprocessing, decode

if TYPE_CHECKING:
    from ltcache.encoder import Encoder, PendingFeatures

_CHUNK = 8  # images in one decoding task: few enough to balance, many enough to be cheap


@dataclass
class Decoded:
    """One micro-batch: pixels uint8 (n, 3, H, W), zeros for items that failed."""

    pixels: np.ndarray
    content: list[str] = field(default_factory=list)
    width: list[int] = field(default_factory=list)
    height: list[int] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)


@dataclass
class Stages:
    """Seconds that the encoding thread spent in each stage: what it waits for is what binds."""

    decode: float = 0.0
    encode: float = 0.0
    write: float = 0.0

    def binding(self) -> str:
        """Return the stage to improve first, in words."""
        total = self.decode + self.encode + self.write
        if total == 0:
            return "starting"
        names = {"decode": "decoding", "encode": "encoding", "write": "writing"}
        name = max(names, key=lambda stage: getattr(self, stage))
        return f"{names[name]} binds ({getattr(self, name) / total:.0%} of the time)"


def encode_shards(
    cache: Path,
    plan: Plan,
    shards: Iterable[int],
    uris: pa.StringArray,
    store: ImageStore,
    encoder: Encoder,
    workers: int,
    stages: Stages,
) -> Iterator[ShardRecord]:
    """Encode and commit shards in order; yields each shard's record once it is on disk.

    Args:
        shards: drawn one by one as decoding gets to them, so that it may leave out what another
            process has committed meanwhile.
        uris: of every item of the plan; in Arrow's form, a fifth of a list's memory.
        workers: decoding threads.
        stages: updated as work goes on.

    A closed or failing iterator waits for the commit in flight, so nothing is half-written.
    """
    with ExitStack() as stack:
        decoders = stack.enter_context(ThreadPoolExecutor(workers, "decode"))
        committer = stack.enter_context(ThreadPoolExecutor(1, "commit"))
        stack.callback(decoders.shutdown, wait=False, cancel_futures=True)
        if os.getloadavg()[0] > (os.cpu_count() or 1):
            committer.submit(spin_briefly)
        ahead, shards = itertools.tee(shards)
        batches = _decoded_batches(plan, ahead, uris, store, encoder, decoders, workers)
        in_flight: Future[ShardRecord] | None = None
        for shard in shards:
            started = time.perf_counter()
            work = _encode_shard(plan, shard, batches, encoder, stages)
            record = _committed(in_flight, stages)
            in_flight = committer.submit(work.commit, cache, plan.views[0], shard)
            seconds = time.perf_counter() - started
            add_cost(cache, images=len(plan.item_range(shard)), seconds=seconds)
            if record is not None:
                yield record
        record = _committed(in_flight, stages)
        if record is not None:
            yield record


def _committed(in_flight: Future[ShardRecord] | None, stages: Stages) -> ShardRecord | None:
    """Wait for a commit; the time counts as writing."""
    started = time.perf_counter()
    record = in_flight.result() if in_flight is not None else None
    stages.write += time.perf_counter() - started
    return record


@dataclass
class ShardWork:
    """A shard's features in memory, on their way to disk."""

    first: int
    features: dict[str, np.ndarray]
    micro_batch: int
    content: list[str] = field(default_factory=list)
    width: list[int] = field(default_factory=list)
    height: list[int] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)

    def add(self, position: int, batch: Decoded, pending: Sequence[PendingFeatures]) -> None:
        """Place a micro-batch at ``position``; what is not finite counts as failed."""
        start = position
        for part in (features.result() for features in pending):
            for name, values in part.items():
                self.features[name][start : start + len(values), 0] = values.numpy()
                stop = start + len(values)
            start = stop
        written = {name: values[position:start, 0] for name, values in self.features.items()}
        errors = dict(batch.errors)
        for row in _not_finite(written):
            errors.setdefault(row, "the encoder gave features that are not finite")
        for rows in written.values():
            rows[list(errors)] = np.nan
        self.content += batch.content
        self.width += batch.width
        self.height += batch.height
        self.errors |= {position + row: text for row, text in errors.items()}

    def commit(self, cache: Path, view: str, shard: int) -> ShardRecord:
        """Write the shard and its record."""
        return commit_shard(
            cache,
            view,
            shard,
            self.features,
            first=self.first,
            count=len(self.content),
            micro_batch=self.micro_batch,
            content=self.content,
            width=self.width,
            height=self.height,
            errors=self.errors,
        )


def _encode_shard(
    plan: Plan, shard: int, batches: Iterator[Decoded], encoder: Encoder, stages: Stages
) -> ShardWork:
    """Encode one shard; on a GPU the features of a batch are fetched while the next one runs."""
    items = plan.item_range(shard)
    empty = {name: np.empty((len(items), 1, dim), np.float32) for name, dim in plan.fields.items()}
    work = ShardWork(items.start, empty, plan.micro_batch)
    depth = 1 if encoder.device.type == "cuda" else 0
    running: deque[tuple[int, Decoded, list[PendingFeatures]]] = deque()
    for position in range(0, len(items), plan.micro_batch):
        started = time.perf_counter()
        batch = next(batches)
        decoded = time.perf_counter()
        pending, work.micro_batch = submit_within_memory(
            encoder, batch.pixels, tuple(plan.fields), work.micro_batch
        )
        running.append((position, batch, pending))
        if len(running) > depth:
            work.add(*running.popleft())
        stages.decode += decoded - started
        stages.encode += time.perf_counter() - decoded
    while running:
        work.add(*running.popleft())
    return work


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


def spin_briefly() -> None:
    """Run one parallel operation, so that this thread owns compute threads besides the encoder's.

    GNU OpenMP's threads spin at every barrier, for milliseconds while the process has no more of
    them than processors. Decoding competes for those processors, so that would steal its time and
    make the forward pass itself wait for threads that were put aside. With a second team alive
    (idle; it ends with the thread that calls this) the library spins for microseconds and sleeps,
    as under OMP_WAIT_POLICY=passive, which only works if set before torch is imported. On a busy
    machine that halves the CPU time; on a quiet one spinning is the faster way (by 2 to 15 %).
    """
    import torch

    per_thread = 1 << 15  # the smallest share that torch gives to a thread
    torch.zeros(torch.get_num_threads() * per_thread).add_(1)


def _not_finite(features: Mapping[str, np.ndarray]) -> list[int]:
    bad: set[int] = set()
    for values in features.values():
        bad |= set(np.flatnonzero(~np.isfinite(values).all(axis=1)).tolist())
    return sorted(bad)


def _decoded_batches(
    plan: Plan,
    shards: Iterable[int],
    uris: pa.StringArray,
    store: ImageStore,
    encoder: Encoder,
    pool: ThreadPoolExecutor,
    workers: int,
) -> Iterator[Decoded]:
    """Yield micro-batches in plan order, a bounded number of them ahead of the encoder."""
    ahead = 2 + -(-workers * _CHUNK // plan.micro_batch)
    waiting: deque[tuple[Decoded, list[Future[list[_Item]]]]] = deque()
    for batch_uris in _micro_batches(plan, shards, uris):
        waiting.append(_submit(batch_uris, store, encoder.preprocessing, pool))
        if len(waiting) > ahead:
            yield _collect(*waiting.popleft())
    while waiting:
        yield _collect(*waiting.popleft())


def _micro_batches(plan: Plan, shards: Iterable[int], uris: pa.StringArray) -> Iterator[list[str]]:
    for shard in shards:
        items = plan.item_range(shard)
        for first in range(items.start, items.stop, plan.micro_batch):
            stop = min(first + plan.micro_batch, items.stop)
            yield uris[first - plan.first_item : stop - plan.first_item].to_pylist()


_Item = tuple[str, int, int, "str | None"]


def _submit(
    uris: Sequence[str], store: ImageStore, preprocessing: Preprocessing, pool: ThreadPoolExecutor
) -> tuple[Decoded, list[Future[list[_Item]]]]:
    batch = Decoded(np.zeros((len(uris), 3, *preprocessing.size), np.uint8))
    futures = [
        pool.submit(
            _decode_chunk, uris[i : i + _CHUNK], store, preprocessing, batch.pixels[i : i + _CHUNK]
        )
        for i in range(0, len(uris), _CHUNK)
    ]
    return batch, futures


def _collect(batch: Decoded, futures: Sequence[Future[list[_Item]]]) -> Decoded:
    for future in futures:
        for content, width, height, error in future.result():
            if error is not None:
                batch.errors[len(batch.content)] = error
            batch.content.append(content)
            batch.width.append(width)
            batch.height.append(height)
    return batch


def _decode_chunk(
    uris: Sequence[str], store: ImageStore, preprocessing: Preprocessing, out: np.ndarray
) -> list[_Item]:
    """Decode images into ``out``; a bad one costs its own row only."""
    items: list[_Item] = []
    for row, uri in enumerate(uris):
        content = ""
        try:
            data = store.read(uri)
            content = bytes_digest(data)
            image = decode(data, preprocessing)
        except ImageError as error:
            items.append((content, 0, 0, str(error)))
            continue
        out[row] = image.pixels
        items.append((content, image.width, image.height, None))
    return items
