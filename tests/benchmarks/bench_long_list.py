"""A long list through its file, plan, shards, finish and opening: memory and seconds of each step.

    python -m tests.benchmarks.bench_long_list [--rows 1000000] [--out FOLDER]

A table in Parquet of made-up paths and labels. One process reads it and writes the list file; each
other step is a fresh process, as a rank is one, that maps the list. Nothing is encoded: shards hold
features of one dimension. ``added`` is anonymous memory (RssAnon) beyond what the imports take;
``resident`` is VmHWM, the pages of mapped files included, which all ranks of a machine share.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    from ltcache.cache import ShardRecord

CLASSES, BLOCK = 1000, 1 << 17


def write_table(work: Path, rows: int) -> None:
    """Write a table of paths, in no order that would help, and labels."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    schema = pa.schema([("path", pa.string()), ("label", pa.int64())])
    with pq.ParquetWriter(work / "list_pool.parquet", schema) as writer:
        for start in range(0, rows, BLOCK):
            numbers = np.arange(start, min(rows, start + BLOCK)) * 7919 % rows
            labels = pa.array(numbers % CLASSES)
            folders, names = (pc.cast(part, pa.string()) for part in (labels, pa.array(numbers)))
            names = pc.binary_join_element_wise(names, "jpg", ".")
            paths = pc.binary_join_element_wise("images", folders, names, "/")
            writer.write_table(pa.table([paths, labels], schema=schema))


def write_list_file(work: Path, rows: int) -> None:
    """Read the table and write the list file: one process, once."""
    from ltcache.manifest import read_manifest, write_list

    manifest = read_manifest(work / "list_pool.parquet")
    assert len(manifest) == rows
    write_list(manifest, work / "list.arrow")


def begin(work: Path, rows: int) -> Any:
    """Return the manifest, the plan, the item of each row and the items' uris, as a rank does."""
    from ltcache.cache import Plan, claim_plan
    from ltcache.extract import extraction
    from ltcache.extract.growth import number_items
    from ltcache.manifest import read_manifest

    manifest = read_manifest(work / "list.arrow")
    items, uris = number_items(manifest)
    size = extraction.shard_size_for(rows)
    identity = manifest.identity()
    plan = Plan({}, {}, identity, ("center",), {"embedding": 1}, len(uris), size, size)
    claim_plan(work / "cache", plan)
    return manifest, plan, items, uris


def commit_shards(work: Path, rows: int) -> None:
    """Commit every shard, all of the same made-up contents; nothing is flushed to disk.

    A shard's items are listed as a rank lists them. Of shards of one size the first is committed;
    the others have its features, and its record with their own numbers.
    """
    from ltcache.cache import record_path, shard_path
    from ltcache.extract.items import ImageItems
    from ltcache.records import canonical_json

    _, plan, _, uris = begin(work, rows)
    items, cache, committed = ImageItems(plan.first_item, uris), work / "cache", {}
    for shard in plan.shards:
        mine = plan.item_range(shard)
        count = len(items.between(mine.start, mine.stop))
        if count not in committed:
            committed[count] = shard, commit_made_up(cache, shard, mine)
            continue
        first, record = committed[count]
        os.link(shard_path(cache, "center", first), shard_path(cache, "center", shard))
        text = canonical_json(replace(record, first=mine.start).to_dict())
        record_path(cache, "center", shard).write_text(text)


def commit_made_up(cache: Path, shard: int, items: range) -> ShardRecord:
    """Commit one shard of made-up contents."""
    import numpy as np

    from ltcache.cache import commit_shard

    count = len(items)
    with patch("ltcache.records.files._flush"):
        record = commit_shard(
            cache, "center", shard, {"embedding": np.ones((count, 1, 1), np.float32)},
            first=items.start, count=count, micro_batch=count, errors={}, width=[1] * count,
            height=[1] * count,
            content=[hashlib.sha256(str(k).encode()).hexdigest() for k in range(count)],
        )  # fmt: skip
    assert record is not None
    return record


def finish(work: Path, rows: int) -> None:
    """Finish the cache and report, as the rank that is the last one does."""
    from ltcache.cache import EncoderState, finalise, open_cache
    from ltcache.extract.report import make_report

    manifest, plan, items, _ = begin(work, rows)
    state = EncoderState({}, {}, {}, None, None, None, None)
    assert finalise(work / "cache", [plan], manifest, items, state, [])
    assert make_report(open_cache(work / "cache"), 0, "", 0.0).rows == rows


def open_it(work: Path, rows: int) -> None:
    """Open the cache."""
    from ltcache.cache import open_cache

    open_cache(work / "cache")


def count_classes(work: Path, rows: int) -> None:
    """Open the cache and count its classes, which compares the list with its digest first."""
    from ltcache.cache import open_cache

    assert open_cache(work / "cache").class_counts("pool").sum() == rows


STEPS: dict[str, Callable[[Path, int], Any]] = {
    "table": write_table,
    "list file": write_list_file,
    "plan": begin,
    "shards": commit_shards,
    "finish": finish,
    "open": open_it,
    "open and count": count_classes,
}


def run_step(step: str, work: Path, rows: int) -> dict[str, float]:
    """Run a step here; seconds, and megabytes of memory."""
    import ltcache.extract.report  # noqa: F401
    from tests.benchmarks.bench_memory import Peak

    with Peak() as memory:
        started = time.perf_counter()
        STEPS[step](work, rows)
        seconds = time.perf_counter() - started
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    resident = int(status["VmHWM"].split()[0]) * 1024
    return {
        "seconds": seconds, "added": (memory.peak - memory.start) / 1e6, "resident": resident / 1e6,
    }  # fmt: skip


def run(work: Path, rows: int, steps: Sequence[str]) -> None:
    """Run steps, each in a fresh process, and print a line of each."""
    for step in steps:
        command = [sys.executable, "-m", "tests.benchmarks.bench_long_list", "--step", step]
        command += ["--rows", str(rows), "--out", str(work)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{step:<16}{found['seconds']:8.1f} s  added {found['added']:6.0f} MB  "
            f"resident {found['resident']:6.0f} MB",
            flush=True,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run in a folder that is removed again, or in the one that was named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.step:
        print(json.dumps(run_step(options.step, options.out, options.rows)))
        return
    with tempfile.TemporaryDirectory(prefix="bench-long-list-") as folder:
        work = options.out or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        run(work, options.rows, list(STEPS))


if __name__ == "__main__":
    main()
