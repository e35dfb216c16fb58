"""The overlapped loop of extraction: read and decode in threads, encode here, commit in a thread.

Decoding runs ahead by a few micro-batches; the shard before is flushed to disk while the next one
is encoded. Order, batch composition and shard borders are the plan's alone, so the result does not
depend on how many threads decode.

An image is decoded once for all views that a shard lacks. Each crop of a view goes through the
encoder in a micro-batch of its own, so that a view has the same bits whether it is made together
with others or added later.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ltcache.cache import (
    Layer,
    Plan,
    ShardRecord,
    add_cost,
    commit_shard,
    dims_of,
    lost_in_half,
    read_shard_record,
)
from ltcache.errors import CacheError, ImageError
from ltcache.extract.items import ImageItem, ImageItems
from ltcache.images import ImageStore, Preprocessing, View, decode_views
from ltcache.process import spin_briefly
from ltcache.records import bytes_digest, one_line

if TYPE_CHECKING:
    from ltcache.encoder import Encoder, PendingFeatures

TOKENS = "tokens"
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


@dataclass(frozen=True)
class ShardToEncode:
    """A shard and the layers in which it is to be encoded."""

    shard: int
    layers: tuple[Layer, ...]

    @property
    def folders(self) -> set[str]:
        """The folders of the layers."""
        return {layer.folder for layer in self.layers}

    @property
    def views(self) -> list[View]:
        """The views of the layers, each once."""
        known = {layer.name: View.from_identity(layer.view) for layer in self.layers}
        return list(known.values())

    def fields(self, view: str) -> tuple[str, ...]:
        """Return the fields that the layers of a view have."""
        named = (name for layer in self.layers if layer.name == view for name in layer.fields)
        return tuple(dict.fromkeys(named))


@dataclass(frozen=True)
class CommittedShard:
    """A shard that is on disk: folder of the layer -> record, and how many images were encoded.

    No image was, where another process had committed the shard meanwhile.
    """

    shard: int
    records: Mapping[str, ShardRecord]
    encoded: int


@dataclass
class StageSeconds:
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
    work: Iterable[ShardToEncode],
    lacking: Callable[[int], ShardToEncode],
    items: ImageItems,
    store: ImageStore,
    encoder: Encoder,
    workers: int,
    stages: StageSeconds,
) -> Iterator[CommittedShard]:
    """Encode and commit shards in order; yields each shard's records once they are on disk.

    Args:
        work: drawn one by one as decoding gets to them, so that it may leave out what another
            process has committed meanwhile.
        lacking: says of a shard which layers lack it now. It is asked again right before each
            commit: this process may have been stopped while others went on.
        items: the images of the plan.
        workers: decoding threads.
        stages: updated as work goes on.

    A closed or failing iterator waits for the commit in flight, so nothing is half-written.

    Raises:
        CacheError: an item that has features in another layer cannot be encoded.
    """
    with ExitStack() as stack:
        decoders = stack.enter_context(ThreadPoolExecutor(workers, "decode"))
        committer = stack.enter_context(ThreadPoolExecutor(1, "commit"))
        stack.callback(decoders.shutdown, wait=False, cancel_futures=True)
        if os.getloadavg()[0] > (os.cpu_count() or 1):
            committer.submit(spin_briefly)
        ahead, work = itertools.tee(work)
        batches = _decoded_batches(plan, ahead, items, store, encoder, decoders, workers)
        in_flight: Future[CommittedShard] | None = None
        for part in work:
            started = time.perf_counter()
            encoded = _encode_shard(plan, part, batches, encoder, stages)
            encoded.check(items, lacking)
            done = _committed(in_flight, stages)
            in_flight = committer.submit(encoded.commit, cache, lacking)
            seconds = time.perf_counter() - started
            add_cost(cache, images=encoded.images, seconds=seconds)
            if done is not None:
                yield done
        done = _committed(in_flight, stages)
        if done is not None:
            yield done


def _committed(
    in_flight: Future[CommittedShard] | None, stages: StageSeconds
) -> CommittedShard | None:
    """Wait for a commit; the time counts as writing."""
    started = time.perf_counter()
    done = in_flight.result() if in_flight is not None else None
    stages.write += time.perf_counter() - started
    return done


class ShardWork:
    """A shard's features in memory, on their way to disk.

    Args:
        items: numbers of the shard's items. micro_batch: images in one forward pass.
    """

    def __init__(self, work: ShardToEncode, items: range, micro_batch: int) -> None:
        self.work = work
        self.items = items
        self.limits = {view.name: micro_batch for view in work.views}
        self.features = {
            layer.folder: {
                name: np.empty((len(items), layer.crops, *dims_of(shape)), storage_type(name))
                for name, shape in layer.fields.items()
            }
            for layer in work.layers
        }
        self.content: list[str] = []
        self.width: list[int] = []
        self.height: list[int] = []
        self.excused: set[int] = set()
        self.errors: dict[str, dict[int, str]] = {layer.folder: {} for layer in work.layers}

    @property
    def images(self) -> int:
        """Images that were encoded, those of each view counted apart."""
        return (len(self.items) - len(self.excused)) * len(self.limits)

    def add(self, position: int, batch: DecodedBatch, pending: Mapping[str, Pending]) -> None:
        """Place a micro-batch at ``position``; what is not finite counts as failed."""
        stop = position + len(batch.content)
        for view, crops in pending.items():
            for crop, parts in enumerate(crops):
                start = position
                for found in (part.result() for part in parts):
                    start = self._place(view, crop, start, found)
        for layer in self.work.layers:
            written = {n: v[position:stop] for n, v in self.features[layer.folder].items()}
            errors = dict(batch.errors)
            for row in _not_finite(written):
                errors.setdefault(row, "the encoder gave features that are not finite")
            for rows in written.values():
                rows[list(errors)] = np.nan
            self.errors[layer.folder] |= {position + row: text for row, text in errors.items()}
        self.content += batch.content
        self.width += batch.width
        self.height += batch.height
        self.excused |= {position + row for row in batch.excused}

    def _place(self, view: str, crop: int, start: int, found: Mapping[str, Any]) -> int:
        """Place one crop's features of a slice; returns where the next slice begins."""
        stop = start
        for layer in self.work.layers:
            if layer.name != view:
                continue
            arrays = self.features[layer.folder]
            for name in layer.fields:
                values = found[name].numpy()
                stop = start + len(values)
                arrays[name] = widened(arrays[name], values)
                arrays[name][start:stop, crop] = values
        return stop

    def check(self, items: ImageItems, lacking: Callable[[int], ShardToEncode]) -> None:
        """Refuse failures of items that have features already: a layer must not lose any."""
        if items.known is None:
            return
        for folder, errors in self.errors.items():
            lost = sorted(set(errors) - self.excused)
            if lost and folder in lacking(self.work.shard).folders:
                first = ", ".join(
                    f"{items.uri(self.items[row])}: {errors[row]}" for row in lost[:5]
                )
                raise CacheError(
                    f"{len(lost)} images have features in the cache but cannot be encoded for "
                    f"{folder} now, for example {first}. The cache is as it was, and what is done "
                    "is kept for the next call. Bring these images back, or leave them out of the "
                    "list"
                )

    def commit(self, cache: Path, lacking: Callable[[int], ShardToEncode]) -> CommittedShard:
        """Write the shard and its record in every layer that lacks it still."""

        def by_others(folder: str) -> Callable[[], bool]:
            return lambda: folder not in lacking(self.work.shard).folders

        written = {
            layer.folder: commit_shard(
                cache,
                layer.folder,
                self.work.shard,
                self.features[layer.folder],
                unless=by_others(layer.folder),
                first=self.items.start,
                count=len(self.content),
                micro_batch=self.limits[layer.name],
                content=self.content,
                width=self.width,
                height=self.height,
                errors=self.errors[layer.folder],
            )
            for layer in self.work.layers
        }
        records = {
            folder: record or read_shard_record(cache, folder, self.work.shard)
            for folder, record in written.items()
        }
        return CommittedShard(
            self.work.shard,
            {folder: record for folder, record in records.items() if record is not None},
            self.images if any(written.values()) else 0,
        )


Pending = Sequence[Sequence["PendingFeatures"]]
"""One view's features to come: for each crop, the slices of the micro-batch."""


def storage_type(field: str) -> type[np.floating[Any]]:
    """Return the type of a field in memory: tokens are too many to be held in float32."""
    return np.float16 if field == TOKENS else np.float32


def widened(array: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the array, in float32 from now on where float16 would change a row."""
    if array.dtype != np.float16 or not lost_in_half(values).any():
        return array
    return array.astype(np.float32)


def _encode_shard(
    plan: Plan,
    work: ShardToEncode,
    batches: Iterator[DecodedBatch],
    encoder: Encoder,
    stages: StageSeconds,
) -> ShardWork:
    """Encode one shard; on a GPU the features of a batch are fetched while the next one runs."""
    items = plan.item_range(work.shard)
    shard = ShardWork(work, items, plan.micro_batch)
    depth = 1 if encoder.device.type == "cuda" else 0
    running: deque[tuple[int, DecodedBatch, dict[str, Pending]]] = deque()
    for position in range(0, len(items), plan.micro_batch):
        started = time.perf_counter()
        batch = next(batches)
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


def _not_finite(features: Mapping[str, np.ndarray]) -> list[int]:
    bad: set[int] = set()
    for values in features.values():
        finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        bad |= set(np.flatnonzero(~finite).tolist())
    return sorted(bad)


def _decoded_batches(
    plan: Plan,
    work: Iterable[ShardToEncode],
    items: ImageItems,
    store: ImageStore,
    encoder: Encoder,
    pool: ThreadPoolExecutor,
    workers: int,
) -> Iterator[DecodedBatch]:
    """Yield micro-batches in plan order, a bounded number of them ahead of the encoder."""
    ahead = 2 + -(-workers * _CHUNK // plan.micro_batch)
    waiting: deque[tuple[DecodedBatch, list[Future[list[_ItemOutcome]]]]] = deque()
    for views, batch in _micro_batches(plan, work, items):
        waiting.append(_submit(batch, views, store, encoder.preprocessing, pool))
        if len(waiting) > ahead:
            yield _collect(*waiting.popleft())
    while waiting:
        yield _collect(*waiting.popleft())


def _micro_batches(
    plan: Plan, work: Iterable[ShardToEncode], items: ImageItems
) -> Iterator[tuple[list[View], list[ImageItem]]]:
    for part in work:
        numbers = plan.item_range(part.shard)
        for first in range(numbers.start, numbers.stop, plan.micro_batch):
            stop = min(first + plan.micro_batch, numbers.stop)
            yield part.views, items.between(first, stop)


@dataclass(frozen=True)
class _ItemOutcome:
    """What became of one item."""

    content: str
    width: int
    height: int
    error: str | None = None
    excused: bool = False


def _submit(
    batch: Sequence[ImageItem],
    views: Sequence[View],
    store: ImageStore,
    preprocessing: Preprocessing,
    pool: ThreadPoolExecutor,
) -> tuple[DecodedBatch, list[Future[list[_ItemOutcome]]]]:
    decoded = DecodedBatch(
        {
            view.name: np.zeros((view.crops, len(batch), 3, *preprocessing.size), np.uint8)
            for view in views
        }
    )
    futures = [
        pool.submit(
            _decode_chunk,
            batch[i : i + _CHUNK],
            views,
            store,
            preprocessing,
            {name: pixels[:, i : i + _CHUNK] for name, pixels in decoded.pixels.items()},
        )
        for i in range(0, len(batch), _CHUNK)
    ]
    return decoded, futures


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


def _decode_chunk(
    batch: Sequence[ImageItem],
    views: Sequence[View],
    store: ImageStore,
    preprocessing: Preprocessing,
    out: Mapping[str, np.ndarray],
) -> list[_ItemOutcome]:
    """Decode images into ``out``; a bad one costs its own row only."""
    return [
        _decode_item(item, views, store, preprocessing, {n: p[:, i] for n, p in out.items()})
        for i, item in enumerate(batch)
    ]


def _decode_item(
    item: ImageItem,
    views: Sequence[View],
    store: ImageStore,
    preprocessing: Preprocessing,
    out: Mapping[str, np.ndarray],
) -> _ItemOutcome:
    if item.error is not None:
        return _ItemOutcome(item.content, item.width, item.height, item.error, excused=True)
    content = ""
    try:
        data = store.read(item.uri)
        content = bytes_digest(data)
        if item.content and content != item.content:
            raise ImageError("the image has changed since it was encoded (--rehash takes it anew)")
        image = decode_views(data, preprocessing, views, content)
    except ImageError as error:
        return _ItemOutcome(content, 0, 0, str(error))
    for name, pixels in image.pixels.items():
        out[name][:] = pixels
    return _ItemOutcome(content, image.width, image.height)
