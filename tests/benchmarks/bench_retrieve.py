"""The exact pass of retrieval against its matrix product, FAISS flat search and inverted lists.

    python -m tests.benchmarks.bench_retrieve [--rows 1000000] [--classes 1000] [--lists 1000 136]

Situation: a pool of float16 embeddings on disk (memory-mapped, warm), class prompts, the best 100
images of each class that is asked for. Floor: the products with all prompts of a block that is in
memory already, at the same precision and threads and the block size that is fastest, as many rows
of them after each block of the pass: a slow spell of the machine falls on both. On a machine that
others use, ``--threads 1 --clock cpu`` counts processor time. Memory is RssAnon at the peak above
that before the pass, in a fresh process.

What is found is scored again in float64, a cost of the number of picks: lists of 1,000 classes from
a million images are a tenth of its rows, from 100,000 images all of them. So a smaller pool needs
fewer lists to say the same.

``clustered``: images lie around class directions that share a common part; ``unclustered``: no two
images have more to do with each other than chance. FAISS flat searches each prompt for twice as
many images as are wanted and scores them again; inverted lists are built, then given more cells and
candidates until their lists have a recall of 0.95 (or none reaches it). Both are asked for the
fewest lists of ``--lists``: a tail's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ltcache.retrieval.guards.neighbours import load_faiss
from ltcache.retrieval.scoring.index import (
    LEAST_RECALL,
    build_index,
    exact_products,
    recall,
    set_effort,
)
from ltcache.retrieval.scoring.pool_scores import (
    PRECISIONS,
    RankedPairs,
    exact_scores,
    ranked,
    score_pool,
)
from ltcache.retrieval.scoring.queries import ClassQueries, unit
from tests.benchmarks.bench_memory import Peak
from tests.retrieval.array_pool import ArrayPool

TOP = 100
clock = time.perf_counter
GOAL, MEMORY = 0.7, 1 << 30
_FLOOR_BLOCKS = (512, 2048, 8192)


def write_pool(
    path: Path, rows: int, queries: ClassQueries, clustered: bool, seed: int = 0
) -> None:
    """Write float16 (rows, D) embeddings, block by block."""
    rng = np.random.default_rng(seed)
    out = np.lib.format.open_memmap(path, "w+", np.float16, (rows, queries.dim))
    directions = queries.rows[0]
    for start in range(0, rows, 8192):
        number = min(8192, rows - start)
        noise = rng.standard_normal((number, queries.dim), np.float32) / np.sqrt(queries.dim)
        if clustered:
            noise += directions[rng.integers(0, len(directions), number)].astype(np.float32)
        out[start : start + number] = noise
    out.flush()


def make_queries(classes: int, dim: int, tau: float) -> ClassQueries:
    """Return prompts that share a common part, as the texts of one template do."""
    rng = np.random.default_rng(1)
    text = rng.normal(size=(classes, dim)) + rng.normal(size=dim)
    return ClassQueries(unit(text)[None], tau)


class PacedPool(ArrayPool):
    """A pool that multiplies a block in memory, timed apart, after each block it hands out.

    A slow spell of the machine then falls on the floor and on the pass alike.
    """

    def __init__(self, values: np.ndarray, queries: ClassQueries, dtype: torch.dtype) -> None:
        super().__init__(values)
        prompts = torch.from_numpy(queries.scaled[0]).to(dtype)
        floors = [Floor(prompts, block) for block in _FLOOR_BLOCKS]
        for floor in floors * 3:
            floor.multiply(2 * max(_FLOOR_BLOCKS))
        object.__setattr__(self, "floor", min(floors, key=lambda floor: floor.fastest))
        self.floor.seconds = 0.0

    def blocks(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield row numbers and embeddings."""
        for rows, values in super().blocks(size):
            yield rows, values
            self.floor.multiply(len(rows))


class Floor:
    """Products of a block in memory with all prompts, into memory that is kept."""

    def __init__(self, prompts: torch.Tensor, block: int) -> None:
        self.values = torch.randn(block, prompts.shape[1]).to(prompts.dtype)
        self.prompts, self.out = prompts, prompts.new_empty(block, len(prompts))
        self.seconds, self.fastest = 0.0, float("inf")

    def multiply(self, rows: int) -> None:
        """Multiply as many rows."""
        started = clock()
        for start in range(0, rows, len(self.values)):
            part = slice(0, min(len(self.values), rows - start))
            torch.mm(self.values[part], self.prompts.T, out=self.out[part])
        taken = clock() - started
        self.seconds, self.fastest = self.seconds + taken, min(self.fastest, taken)


def compare_pass(
    pool: ArrayPool, queries: ClassQueries, lists: int, precision: str, repeats: int
) -> None:
    """Print the ratio of the floor to the pass."""
    labels = np.arange(lists)
    ratios, passes = [], []
    for _ in range(repeats):
        paced = PacedPool(pool.values, queries, PRECISIONS[precision])
        started = clock()
        score_pool(paced, queries, labels, TOP, precision=precision)
        passes.append(clock() - started - paced.floor.seconds)
        ratios.append(paced.floor.seconds / passes[-1])
    print(
        f"  {precision}, lists of {lists} classes: {statistics.median(passes):.2f} s, floor / pass "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}; goal {GOAL})",
        flush=True,
    )


def list_recall(found: RankedPairs, exact: RankedPairs) -> float:
    """Return the share of the exact lists that was found."""
    labels = np.unique(exact.labels)
    return recall([found.of(k).rows for k in labels], [exact.of(k).rows for k in labels])


def compare_flat(pool: ArrayPool, queries: ClassQueries, exact: RankedPairs) -> None:
    """Print time and recall of a flat search of each prompt with exact scores of what it finds."""
    labels = np.unique(exact.labels)

    def run() -> RankedPairs:
        rows = exact_products(pool, queries.rows[0, labels], 2 * TOP)
        where = np.repeat(np.arange(len(labels)), rows.shape[1])
        flat = rows.reshape(-1)
        scored = exact_scores(pool, queries, flat, labels[where])
        return ranked(flat, where, *scored, labels, TOP)

    started = clock()
    found = run()
    seconds = clock() - started
    print(
        f"  FAISS flat per prompt, twice as many, scored again: {seconds:.2f} s, list recall "
        f"{list_recall(found, exact):.3f}",
        flush=True,
    )


def compare_inverted(
    pool: ArrayPool, queries: ClassQueries, exact: RankedPairs, seconds: float
) -> None:
    """Print what inverted lists cost to build and to search at a list recall of 0.95."""
    labels = np.unique(exact.labels)
    started = clock()
    index = build_index(pool, queries, "ivf", top=TOP)
    assert index is not None
    built = index.record.build_seconds
    for factor in (2, 4, 8, 16):
        for effort in (8, 32, 128):
            index.record = replace(index.record, factor=factor)
            set_effort(index, effort)
            started = clock()
            found = index.candidates(pool, queries, labels, TOP)
            taken, reached = clock() - started, list_recall(found, exact)
            if reached >= LEAST_RECALL:
                gain = seconds - taken
                pays = f"pays from search {int(built / gain) + 1} on" if gain > 0 else "never pays"
                print(
                    f"  IVF: build {built:.2f} s, search {taken:.2f} s at list recall "
                    f"{reached:.3f} (nprobe {effort}, factor {factor}); {pays}",
                    flush=True,
                )
                return
    print(f"  IVF: build {built:.2f} s; no setting reaches a list recall of 0.95 ({reached:.3f})")


def measure_memory(path: Path, classes: int, dim: int, tau: float, threads: int) -> int:
    """Return the bytes of RssAnon at the peak of a pass above those before it."""
    torch.set_num_threads(threads)
    queries = make_queries(classes, dim, tau)
    torch.mm(torch.zeros(8, 8), torch.zeros(8, 8))
    with Peak() as memory:
        score_pool(ArrayPool(np.load(path, mmap_mode="r")), queries, np.arange(classes), TOP)
    return memory.peak - memory.start


def run_case(path: Path, options: argparse.Namespace) -> bool:
    """Print all comparisons on one pool; whether memory is within bounds."""
    queries = make_queries(options.classes, options.dim, options.tau)
    pool = ArrayPool(np.load(path, mmap_mode="r"))
    for precision in options.precision:
        for lists in options.lists:
            compare_pass(pool, queries, min(lists, options.classes), precision, options.repeats)
    labels = np.arange(min(*options.lists, options.classes))
    started = clock()
    exact = score_pool(pool, queries, labels, TOP)
    seconds = clock() - started
    fast = score_pool(pool, queries, labels, TOP, precision="bf16")
    print(f"  bf16 candidates: list recall {list_recall(fast, exact):.4f}")
    print(f"  lists of {len(labels)} classes, exact pass {seconds:.2f} s, against indices:")
    compare_flat(pool, queries, exact)
    compare_inverted(pool, queries, exact, seconds)
    command = [sys.executable, "-m", "tests.benchmarks.bench_retrieve", "--child", str(path)]
    for name in ("classes", "dim", "tau", "threads"):
        command += [f"--{name}", str(getattr(options, name))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    used = json.loads(done.stdout.splitlines()[-1])
    print(f"  RssAnon above the interpreter: {used / 1e6:.0f} MB (goal below {MEMORY / 1e6:.0f})")
    return used < MEMORY


def main() -> int:
    """Measure and print; status 1 where memory is beyond its bound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--lists", type=int, nargs="+", default=[1000, 136])
    parser.add_argument("--tau", type=float, default=0.01)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--data", nargs="+", default=["clustered", "unclustered"])
    parser.add_argument("--quick", action="store_true", help="a tenth of rows and lists")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.rows, options.lists = options.rows // 10, [n // 10 for n in options.lists]
    if options.child:
        sizes = (options.classes, options.dim, options.tau, options.threads)
        print(measure_memory(options.child, *sizes))
        return 0
    global clock
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    torch.set_num_threads(options.threads)
    load_faiss().omp_set_num_threads(options.threads)
    queries = make_queries(options.classes, options.dim, options.tau)
    bounded = True
    with tempfile.TemporaryDirectory(prefix="bench-retrieve-") as folder:
        for data in options.data:
            path = Path(folder) / f"{data}.npy"
            write_pool(path, options.rows, queries, data == "clustered")
            print(
                f"{data}: {options.rows} x {options.dim}, {options.classes} prompts, best {TOP}, "
                f"tau {options.tau}, {options.threads} thread(s)"
            )
            bounded &= run_case(path, options)
    return 0 if bounded else 1


if __name__ == "__main__":
    raise SystemExit(main())
