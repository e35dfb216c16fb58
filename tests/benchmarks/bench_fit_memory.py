"""Memory of fits: features that lie in memory once, however many processes fit on them.

    python -m tests.benchmarks.bench_fit_memory [--rows 400000] [--dim 512] [--workers 2]

Whole commands on a synthetic cache of N training rows, and on one of a thousand rows, which tells
what Python and its libraries need by themselves. Memory is the most PSS of all processes of a
command together, so that pages that processes share count once. A ratio is what the rows added over
what their features take as float32.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.bench_million import write_synthetic
from tests.benchmarks.process_tree import measured

FEW, CLASSES, PERIOD = 1000, 100, 0.05


def commands(cache: Path, out: Path, workers: int) -> dict[str, list[str]]:
    """Return name of a line -> words of a command."""
    short = ["-s", "optimisation.epochs=1"]
    fit = ["fit-adapter", str(cache), "--method", "ce", *short, "--out", str(out / "fit")]
    ablate = ["ablate", str(cache), "--methods", "ce,logit-adjustment", "--seeds", "2", *short]
    return {
        "fit-adapter": fit,
        f"ablate, {workers} processes": [
            *ablate, "--workers", str(workers), "--out", str(out / "ablation"),
        ],
    }  # fmt: skip


def peaks(work: Path, rows: int, dim: int, workers: int) -> dict[str, float]:
    """Return name of a line -> most memory of its command, in MB."""
    train = rows - FEW // 2
    cache = write_synthetic(work / "cache", rows, dim, classes=CLASSES, train=train, rest="test")
    found = {}
    for name, words in commands(cache, work, workers).items():
        command = [sys.executable, "-m", "ltcache", *words]
        done = measured(command, {"OMP_NUM_THREADS": "1"}, period=PERIOD)
        if done.status:
            raise RuntimeError(f"{' '.join(command)}: status {done.status}: {done.said}")
        found[name] = done.peak
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args(arguments)
    found = {}
    for rows in (FEW, chosen.rows):
        with tempfile.TemporaryDirectory(prefix="bench-fit-memory-") as folder:
            found[rows] = peaks(Path(folder), rows, chosen.dim, chosen.workers)
    features = (chosen.rows - FEW) * chosen.dim * 4 / 2**20
    print(f"{chosen.rows} x {chosen.dim}: features of {features:.0f} MB")
    for name, most in found[chosen.rows].items():
        added = most - found[FEW][name]
        print(f"{name}: {most:.0f} MB, {added / features:.2f} times the features")


if __name__ == "__main__":
    main()
