"""Finishing a cache of more texts than 32-bit offsets reach: seconds and memory of each step.

    python -m tests.benchmarks.bench_finalise [--rows 35000000] [--out FOLDER]

33.5 million SHA-256 fill 2^31 bytes. Features are of one dimension and nothing is encoded. Whether
keys are unique is not asked here: that takes gigabytes for a moment.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ltcache.cache import EncoderState, Plan, claim_plan, commit_shard, finalise, open_cache
from ltcache.manifest import ClassList, Manifest
from tests.benchmarks.bench_memory import Peak
from tests.benchmarks.bench_million import Hashes

CLASSES, SHARD = 1000, 1 << 17


@contextmanager
def measured(step: str) -> Iterator[None]:
    """Print the seconds of a step and the anonymous memory that it added at its peak."""
    started = time.perf_counter()
    with Peak() as memory:
        yield
    seconds, added = time.perf_counter() - started, (memory.peak - memory.start) / 1e9
    print(f"{step:<16}{seconds:8.1f} s  +{added:.2f} GB", flush=True)


def manifest_of(rows: int) -> Manifest:
    """Return a list of made-up paths."""
    numbers = pa.array(np.arange(rows))
    keys = pc.binary_join_element_wise("i/", pc.cast(numbers, pa.string()), "")
    columns = {
        "row_id": numbers, "key": keys, "uri": keys, "label": pa.array(np.arange(rows) % CLASSES),
        "split": pa.repeat("train", rows),
    }  # fmt: skip
    names = ClassList(tuple(f"class {k}" for k in range(CLASSES)))
    with patch("ltcache.manifest.manifest.check_rows"):
        return Manifest("synthetic", pa.table(columns), names)


def write_shards(out: Path, plan: Plan) -> None:
    """Commit shards of one value a row."""
    hashes = Hashes(plan.items)
    for shard in plan.shards:
        items = plan.item_range(shard)
        count = len(items)
        commit_shard(
            out, "center", shard, {"embedding": np.ones((count, 1, 1), np.float32)},
            first=items.start, count=count, micro_batch=count, errors={}, width=[1] * count,
            height=[1] * count, content=hashes[items.start : items.stop],
        )  # fmt: skip


def run(out: Path, rows: int) -> None:
    """Make, finish and open a cache."""
    plan = Plan({}, {}, {}, ("center",), {"embedding": 1}, rows, SHARD, SHARD)
    with measured("list"):
        manifest = manifest_of(rows)
    with measured("shards"):
        claim_plan(out, plan)
        write_shards(out, plan)
    with measured("finalise"):
        state = EncoderState({}, {}, {}, None, None, None, None)
        finalise(out, [plan], manifest, np.arange(rows), state, [])
    with measured("open and count"):
        counts = open_cache(out).class_counts()
    assert counts.sum() == rows


def main() -> None:
    """Run in a folder that is removed again, or in the one that was named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=35_000_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-finalise-") as folder:
        run(options.out or Path(folder) / "cache", options.rows)


if __name__ == "__main__":
    main()
