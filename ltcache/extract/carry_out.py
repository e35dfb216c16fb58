"""Carrying out what a plan still lacks, alone or together with other processes."""

from __future__ import annotations

import time
from collections.abc import Collection

import pyarrow as pa

from ltcache.cache import Plan, ShardRecord, read_shard_record
from ltcache.errors import CacheError
from ltcache.extract.checks import too_many
from ltcache.extract.finish_only import require_committed
from ltcache.extract.order import joined_by_hand, own_part_first
from ltcache.extract.report import ExtractionProgress, ExtractionTally
from ltcache.extract.request import ExtractRequest
from ltcache.extract.shard import ShardQueue
from ltcache.extract.writer import write_shards
from ltcache.images import open_store
from ltcache.records import remove_leftovers


def carry_out(queue: ShardQueue, request: ExtractRequest, tally: ExtractionTally) -> int:
    """Encode a queue's shards that are not committed yet.

    Each process takes its own part first (:mod:`ltcache.extract.order`) and passes over what
    another one has committed meanwhile; at worst a shard is encoded twice, to the same bytes.

    Returns:
        The number of images that were encoded, those of each view counted apart.

    Raises:
        CacheError: too many images failed, or some lack features although nothing is to be encoded.
    """
    if request.finish_only:
        require_committed(queue)
        return 0
    remove_leftovers(queue.out)
    pa.default_memory_pool().release_unused()  # what reading the manifest took in passing
    total = queue.plan.items if queue.shards is None else _size(queue.plan, queue.shards)
    done = total - _size(queue.plan, [work.shard for work in queue.todo()])
    failed = _failures(queue)
    store = open_store(queue.root)
    encoded, started, first = 0, time.perf_counter(), done
    mine = request.part
    if mine.size == 1 and not queue.alone:
        mine = joined_by_hand()
    while todo := [work.shard for work in queue.todo()]:
        order = own_part_first(todo, queue.numbers, mine)
        written = write_shards(
            queue, order, store, request.encoder, request.workers, tally, request.decode_processes
        )
        for part in written:
            record = next(iter(part.records.values()), None)
            if record is None:  # others have finished the cache
                continue
            encoded += part.encoded
            failed += len(record.errors) if queue.items.known is None else 0
            done = min(total, done + record.count)
            if request.progress:
                rate = (done - first) / (time.perf_counter() - started)
                request.progress(ExtractionProgress(done, total, failed, rate, tally.binding()))
            judged = queue.plan.items if queue.plan.number == 1 else 0  # few new ones may all fail
            if too_many(failed, done, judged, request.max_failures):
                raise _failures_error(queue, record, failed, done, request.max_failures)
    remove_leftovers(queue.out)  # of processes that were killed meanwhile
    return encoded


def _size(plan: Plan, shards: Collection[int]) -> int:
    return sum(len(plan.item_range(shard)) for shard in shards)


def _failures(queue: ShardQueue) -> int:
    """Return how many of a new plan's items are known to have failed."""
    if queue.items.known is not None:
        return 0
    records = (
        read_shard_record(queue.out, queue.layers[0].folder, shard) for shard in queue.plan.shards
    )
    return sum(len(record.errors) for record in records if record)


def _failures_error(
    queue: ShardQueue, record: ShardRecord, failed: int, seen: int, max_failures: float
) -> CacheError:
    examples = [
        f"{queue.items.uri(record.first + row)}: {text}"
        for row, text in list(record.errors.items())[:5]
    ]
    return CacheError(
        f"{failed} of {seen} images failed (allowed: {max_failures:.1%}, --max-failures), "
        f"for example {'; '.join(examples)}. What is done stays in {queue.out}."
    )
