"""A cache of a million rows: how long it takes to open, to fit on some rows, to verify.

    python -m tests.benchmarks.bench_million [--rows 1000000] [--dim 512] [--out FOLDER]

The cache is synthetic: random features around class means, float16, shards of 8,192 items, as many
content hashes, keys and records as a real one. Each step runs in a fresh process, so that nothing
is read before its time; the files are in the page cache, as they are just after extraction.
``--out`` keeps the cache (1 GB at the default size).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CLASSES, SUBSET, SHARDS = 1000, 20_000, 8
_DISTINCT = 9973  # vectors of noise: drawing a million would take longer than all else


class Synthetic:
    """Features (n, 1, D) around class means, made row by row; stands for an array on disk.

    Args:
        rows: n. dim: D. classes: C; row k is of class k % C.
    """

    crops = 1

    def __init__(self, rows: int, dim: int, classes: int) -> None:
        self._rows, self.dim = rows, dim
        rng = np.random.default_rng(0)
        self._means = rng.normal(size=(classes, dim)).astype(np.float32)
        self._noise = rng.normal(size=(_DISTINCT, dim)).astype(np.float32)

    def __len__(self) -> int:
        return self._rows

    def block(self, start: int, stop: int) -> np.ndarray:
        """Return rows ``start`` to ``stop`` as float32 (n, 1, D)."""
        rows = np.arange(start, stop)
        noise = self._noise[rows % len(self._noise)] * (1 + rows[:, None] % 7 / 7)
        return (self._means[rows % len(self._means)] + noise).astype(np.float32)[:, None]


def write_synthetic(
    out: Path, rows: int, dim: int, *, classes: int = CLASSES, train: int = SUBSET,
    shard_size: int = 8192, rest: str = "pool",
) -> Path:  # fmt: skip
    """Write a cache whose first ``train`` rows are the split train and the others ``rest``."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from ltcache.manifest import ClassList, Manifest
    from ltcache.transfer.importing import _state
    from ltcache.transfer.writing import ImportedContent, write_cache

    numbers = pa.array(np.arange(rows))
    keys = pc.binary_join_element_wise("images/", pc.cast(numbers, pa.string()), "")
    splits = pa.array(np.where(np.arange(rows) < train, "train", rest))
    table = pa.table(
        {
            "row_id": numbers, "key": keys, "uri": keys,
            "label": pa.array(np.arange(rows) % classes), "split": splits.cast(pa.string()),
        }
    )  # fmt: skip
    names = ClassList(tuple(f"class {k}" for k in range(classes)))
    manifest = Manifest("synthetic", table, names)
    stacks: Any = {"embedding": Synthetic(rows, dim, classes)}
    encoder = _state(stacks, "0" * 64, "synthetic", {}, 100.0)
    hashes: Any = Hashes(rows)
    content = ImportedContent(manifest, stacks, encoder, [], {}, {"sha256": hashes})
    write_cache(out, content, shard_size)
    return out


class Hashes:
    """A SHA-256 for each row, as long as real ones, made when asked for."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def __getitem__(self, rows: slice) -> list[str]:
        return [f"{row:064x}" for row in range(self._rows)[rows]]


def open_it(path: Path) -> None:
    """Open the cache; nothing of its rows is read yet."""
    from ltcache.cache import open_cache

    open_cache(path)


def open_and_count(path: Path) -> None:
    """Open it, read its rows and count the classes of a split."""
    from ltcache.cache import open_cache

    assert open_cache(path).class_counts("train").sum() == SUBSET


def fit_some(path: Path) -> None:
    """Fit a linear head on the training rows, two of a hundred."""
    from ltcache.fit import fit_adapter

    fit_adapter(path, "ce", overrides={"optimisation.epochs": 1})


def verify_some(path: Path) -> None:
    """Verify by sample: every size, every small file, eight shards."""
    from ltcache.cache.verify import verify_files

    assert verify_files(path, max_shards=SHARDS).ok


def verify_all(path: Path) -> None:
    """Verify every byte and value."""
    from ltcache.cache.verify import verify_files

    assert verify_files(path).ok


STEPS: dict[str, Callable[[Path], None]] = {
    "open": open_it,
    "open and count the rows": open_and_count,
    "fit on 20,000 rows": fit_some,
    f"verify {SHARDS} shards": verify_some,
    "verify everything": verify_all,
}


def timed(step: str, path: Path) -> dict[str, float]:
    """Return seconds of a step, and of its imports, in a fresh process."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_million", "--step", step]
    done = subprocess.run(
        [*command, "--out", str(path)], check=True, stdout=subprocess.PIPE, text=True
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def run_step(step: str, path: Path) -> dict[str, float]:
    """Run a step here after its imports; seconds, and the peak of anonymous memory it added."""
    import ltcache.cache.verify
    import ltcache.fit  # noqa: F401
    from tests.benchmarks.bench_memory import Peak

    with Peak() as memory:
        started = time.perf_counter()
        STEPS[step](path)
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "megabytes": (memory.peak - memory.start) / 1e6}


def main() -> None:
    """Build and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(run_step(options.step, options.out)))
        return
    with tempfile.TemporaryDirectory(prefix="bench-million-") as folder:
        path = options.out or Path(folder) / "cache"
        started = time.perf_counter()
        write_synthetic(path, options.rows, options.dim)
        files = [file for file in path.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        print(
            f"{options.rows} x {options.dim}: {len(files)} files, {size / 1e9:.2f} GB, written in "
            f"{time.perf_counter() - started:.1f} s"
        )
        for step in STEPS:
            found = timed(step, path)
            print(f"{step:<26}{found['seconds']:8.2f} s  +{found['megabytes']:.0f} MB")


if __name__ == "__main__":
    main()
