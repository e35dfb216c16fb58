"""Encoding what a plan still lacks, alone or together with other processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ltcache.cache import Layer, Plan, ShardRecord, index_path, read_shard_record
from ltcache.errors import CacheError
from ltcache.extract.checks import too_many
from ltcache.extract.items import ImageItems
from ltcache.extract.pipeline import CommittedShard, ShardToEncode, StageSeconds, encode_shards
from ltcache.extract.report import ExtractionProgress
from ltcache.images import open_store
from ltcache.manifest import Root
from ltcache.records import remove_leftovers

if TYPE_CHECKING:
    from ltcache.encoder import Encoder


@dataclass(frozen=True)
class ExtractionOptions:
    """What concerns this call alone, not the cache."""

    workers: int
    max_failures: float
    progress: Callable[[ExtractionProgress], None] | None


@dataclass(frozen=True, eq=False)
class ShardQueue:
    """A plan's shards in some layers.

    Args:
        items: the plan's images.
        layers: in which they are to be encoded.
        root: where they are.
        alone: whether this process began it: the first one works from the front.
        shards: of the plan, if not all.
        finished: whether the cache was when the task began; one that others finish meanwhile lacks
            nothing any more, whatever becomes of its shards.
    """

    out: Path
    plan: Plan
    items: ImageItems
    layers: Sequence[Layer]
    root: Root | None
    alone: bool = True
    shards: Collection[int] | None = None
    finished: bool = True

    def todo(self) -> list[ShardToEncode]:
        """Return what has not been committed."""
        numbers = self.plan.shards if self.shards is None else sorted(self.shards)
        found = (self.lacking(shard) for shard in numbers)
        return [work for work in found if work.layers]

    def lacking(self, shard: int) -> ShardToEncode:
        """Return a shard and the layers in which it has not been committed."""
        if not self.finished and index_path(self.out).exists():
            return ShardToEncode(shard, ())
        layers = (x for x in self.layers if not self._complete(x, shard))
        return ShardToEncode(shard, tuple(layers))

    def _complete(self, layer: Layer, shard: int) -> bool:
        """Whether a shard is there and has features of every item that should have them."""
        record = read_shard_record(self.out, layer.folder, shard)
        excused = self.items.excused
        if record is None or excused is None:
            return record is not None
        failed = np.array(list(record.errors), np.int64) + record.first - self.plan.first_item
        return bool(excused[failed].all())


def encode_task(
    task: ShardQueue, encoder: Encoder, stages: StageSeconds, options: ExtractionOptions
) -> int:
    """Encode a task's shards that are not committed yet.

    Processes that join a plan begin in the middle of what is left and pass over what another one
    has committed meanwhile; at worst a shard is encoded twice, to the same bytes.

    Returns:
        The number of images that were encoded, those of each view counted apart.
    """
    remove_leftovers(task.out)
    pa.default_memory_pool().release_unused()  # what reading the manifest took in passing
    total = task.plan.items if task.shards is None else _size(task.plan, task.shards)
    done = total - _size(task.plan, [work.shard for work in task.todo()])
    failed = _failures(task)
    encoded, started, first = 0, time.perf_counter(), done
    while todo := task.todo():
        order = todo if task.alone else todo[len(todo) // 2 :] + todo[: len(todo) // 2]
        for part in _encoded(task, order, encoder, stages, options):
            record = next(iter(part.records.values()), None)
            if record is None:  # others have finished the cache
                continue
            encoded += part.encoded
            failed += len(record.errors) if task.items.known is None else 0
            done = min(total, done + record.count)
            if options.progress:
                rate = (done - first) / (time.perf_counter() - started)
                options.progress(ExtractionProgress(done, total, failed, rate, stages.binding()))
            judged = task.plan.items if task.plan.number == 1 else 0  # few new ones may all fail
            if too_many(failed, done, judged, options.max_failures):
                raise _failures_error(task, record, failed, done, options.max_failures)
    return encoded


def _encoded(
    task: ShardQueue,
    order: Sequence[ShardToEncode],
    encoder: Encoder,
    stages: StageSeconds,
    options: ExtractionOptions,
) -> Iterator[CommittedShard]:
    current = (task.lacking(work.shard) for work in order)
    still = (work for work in current if work.layers)
    return encode_shards(
        task.out, task.plan, still, task.lacking, task.items, open_store(task.root), encoder,
        options.workers, stages,
    )  # fmt: skip


def _size(plan: Plan, shards: Collection[int]) -> int:
    return sum(len(plan.item_range(shard)) for shard in shards)


def _failures(task: ShardQueue) -> int:
    """Return how many of a new plan's items are known to have failed."""
    if task.items.known is not None:
        return 0
    records = (
        read_shard_record(task.out, task.layers[0].folder, shard) for shard in task.plan.shards
    )
    return sum(len(record.errors) for record in records if record)


def _failures_error(
    task: ShardQueue, record: ShardRecord, failed: int, seen: int, max_failures: float
) -> CacheError:
    examples = [
        f"{task.items.uri(record.first + row)}: {text}"
        for row, text in list(record.errors.items())[:5]
    ]
    return CacheError(
        f"{failed} of {seen} images failed (allowed: {max_failures:.1%}, --max-failures), "
        f"for example {'; '.join(examples)}. What is done stays in {task.out}."
    )
