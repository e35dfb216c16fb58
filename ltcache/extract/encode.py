"""Encoding what a plan still lacks, alone or together with other processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ltcache.cache import Plan, claim_plan, read_record
from ltcache.cache.layout import CENTER, remove_leftovers
from ltcache.errors import CacheError
from ltcache.extract.checks import too_many
from ltcache.extract.pipeline import Stages, encode_shards
from ltcache.extract.report import Progress
from ltcache.images import open_store
from ltcache.manifest import Manifest

if TYPE_CHECKING:
    from ltcache.encoder import Encoder


@dataclass(frozen=True)
class Options:
    """What concerns this call alone, not the cache."""

    workers: int
    max_failures: float
    progress: Callable[[Progress], None] | None


def encode_plan(
    out: Path,
    plan: Plan,
    uris: pa.StringArray,
    manifest: Manifest,
    encoder: Encoder,
    stages: Stages,
    options: Options,
) -> int:
    """Claim a plan and encode its shards that are not committed yet.

    Processes that join a plan begin in the middle of what is left and pass over what another one
    has committed meanwhile; at worst a shard is encoded twice, to the same bytes.

    Returns:
        The number of items that were encoded.
    """
    created = claim_plan(out, plan)
    remove_leftovers(out)
    pa.default_memory_pool().release_unused()  # what reading the manifest took in passing
    done = failed = 0
    for shard in plan.shards:
        if record := read_record(out, CENTER, shard):
            done, failed = done + record.count, failed + len(record.errors)
    encoded, started = 0, time.perf_counter()
    store = open_store(manifest.root)
    while todo := uncommitted(out, plan):
        order = todo if created else todo[len(todo) // 2 :] + todo[: len(todo) // 2]
        still = (shard for shard in order if read_record(out, CENTER, shard) is None)
        for record in encode_shards(
            out, plan, still, uris, store, encoder, options.workers, stages
        ):
            encoded += record.count
            failed += len(record.errors)
            seen = done + encoded
            if options.progress:
                rate = encoded / (time.perf_counter() - started)
                options.progress(Progress(seen, plan.items, failed, rate, stages.binding()))
            total = plan.items if plan.number == 1 else 0  # of a few new images all may fail
            if too_many(failed, seen, total, options.max_failures):
                raise _failures_error(out, plan, uris, record, failed, seen, options.max_failures)
    return encoded


def uncommitted(out: Path, plan: Plan) -> list[int]:
    return [shard for shard in plan.shards if read_record(out, CENTER, shard) is None]


def _failures_error(
    out: Path,
    plan: Plan,
    uris: pa.StringArray,
    record: Any,
    failed: int,
    seen: int,
    max_failures: float,
) -> CacheError:
    examples = [
        f"{uris[record.first - plan.first_item + row]}: {text}"
        for row, text in list(record.errors.items())[:5]
    ]
    return CacheError(
        f"{failed} of {seen} images failed (allowed: {max_failures:.1%}, --max-failures), "
        f"for example {'; '.join(examples)}. What is done stays in {out}."
    )
