"""Writing: the shards of a queue, each committed in a thread while the next one is encoded."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ltcache.cache import add_cost
from ltcache.extract.encode import encode_shards
from ltcache.extract.order import taken_shards
from ltcache.extract.reader import IN_FLIGHT, BatchReader, ChunkDecoding, pixel_memory
from ltcache.extract.report import ExtractionTally
from ltcache.extract.shard import CommittedShard, ShardQueue
from ltcache.extract.signs import ShardSigns
from ltcache.images import (
    DecodeProcesses,
    DecoderRecipe,
    ImageStore,
    PixelMemory,
    chunk_decoder,
    modules_of_entries,
    start_of_thread,
)
from ltcache.process import passes_at_once, pinned_memory, spin_briefly

if TYPE_CHECKING:
    from ltcache.encoder import Encoder


def write_shards(
    queue: ShardQueue,
    order: Sequence[int],
    store: ImageStore,
    encoder: Encoder,
    workers: int,
    tally: ExtractionTally,
    processes: int = 0,
) -> Iterator[CommittedShard]:
    """Encode and commit shards in order; yields each shard's records once they are on disk.

    What another process has committed meanwhile is left out as decoding gets to it
    (:func:`ltcache.extract.order.taken_shards`) and between micro-batches, and looked at again
    right before each commit: this process may have been stopped while others went on.

    Args:
        store: where the bytes of images come from.
        workers: decoding threads.
        tally: updated as work goes on.
        processes: that decode in place of the threads; they read from the queue's own root.

    A closed or failing iterator waits for the commit in flight, so nothing is half-written.

    Raises:
        CacheError: an item that has features in another layer cannot be encoded.
    """
    signs = ShardSigns(queue.out, queue.plan)
    with ExitStack() as stack:
        stack.callback(signs.clear)
        at_once = passes_at_once(encoder.device.type)
        decoder, memory = _decoder(queue, store, encoder, workers, processes, at_once, stack)
        threads = processes or workers
        first = start_of_thread(queue.plan.decoder, encoder.device)
        decoders = stack.enter_context(ThreadPoolExecutor(threads, "decode", first))
        committer = stack.enter_context(ThreadPoolExecutor(1, "commit"))
        stack.callback(decoders.shutdown, wait=False, cancel_futures=True)
        if os.getloadavg()[0] > (os.cpu_count() or 1):
            committer.submit(spin_briefly)
        ahead, shards = itertools.tee(taken_shards(order, queue.lacking, signs))
        size = encoder.preprocessing.size
        reader = BatchReader(queue.plan, queue.items, size, decoder, memory, decoders, threads)
        batches = reader.batches(ahead)
        in_flight: Future[CommittedShard] | None = None
        started = time.perf_counter()
        for encoded in encode_shards(queue, shards, batches, encoder, tally, at_once):
            done = None
            if encoded.complete:
                encoded.check(queue)
                done = _committed(in_flight, signs, tally)
                in_flight = committer.submit(encoded.commit, queue)
            else:
                signs.remove(encoded.work.shard)
            seconds = time.perf_counter() - started
            add_cost(queue.out, images=encoded.images, seconds=seconds)
            if done is not None:
                yield done
            started = time.perf_counter()
        done = _committed(in_flight, signs, tally)
        if done is not None:
            yield done


def _decoder(
    queue: ShardQueue,
    store: ImageStore,
    encoder: Encoder,
    workers: int,
    processes: int,
    at_once: int,
    stack: ExitStack,
) -> tuple[ChunkDecoding, PixelMemory]:
    """Return what decodes, and the memory that it fills; both go with the stack."""
    how, decoder = encoder.preprocessing, queue.plan.decoder
    memory = pixel_memory(
        queue.plan, queue.layers, how, processes or workers,
        in_flight=max(IN_FLIGHT, at_once), shared=bool(processes),
    )  # fmt: skip
    stack.callback(memory.close)
    stack.enter_context(pinned_memory(memory.bytes, encoder.device))
    if not processes:
        return chunk_decoder(store, how, queue.partners, decoder), memory
    recipe = DecoderRecipe(queue.root, how, queue.partners, decoder, modules_of_entries())
    several = DecodeProcesses(recipe, processes, memory)
    stack.callback(several.close)
    return several, memory


def _committed(
    in_flight: Future[CommittedShard] | None, signs: ShardSigns, tally: ExtractionTally
) -> CommittedShard | None:
    """Wait for a commit; the time counts as writing."""
    started = time.perf_counter()
    done = in_flight.result() if in_flight is not None else None
    tally.write += time.perf_counter() - started
    if done is not None:
        signs.remove(done.shard)
    return done
