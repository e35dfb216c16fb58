"""How long commands take that have little to do, beside what Python needs to import torch.

    python -m tests.benchmarks.bench_start [--repeats R]

Whole processes, run in turn on a folder of 60 small drawings and its cache: a command that only
looks, a fit, and a plain `import torch`. Seconds of processor time are medians; a ratio is the
median over rounds of command / import torch. What only looks should be well below 1.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tests.benchmarks.commands import Newcomer, Usage, run
from tests.benchmarks.timing import Ratio

TORCH = "import torch"


def commands(newcomer: Newcomer) -> dict[str, list[str]]:
    """Return name of a line -> what is run."""
    images, cache, out = (str(newcomer.work / name) for name in ("images", "cache", "run"))
    shutil.rmtree(out, ignore_errors=True)
    fit = ["fit-adapter", cache, "--method", "logit-adjustment", "--out", out]
    typed = {
        "--help": ["--help"],
        "inspect IMAGES": ["inspect", images],
        "inspect CACHE": ["inspect", cache],
        "methods": ["methods"],
        "fit-adapter": fit,
        "evaluate": ["evaluate", out],
        "report": ["report", out],
    }
    asked = {name: [*newcomer.program, *words] for name, words in typed.items()}
    return {TORCH: [sys.executable, "-c", TORCH], **asked}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args(arguments).repeats
    with tempfile.TemporaryDirectory(prefix="bench-start-") as folder:
        newcomer = Newcomer(Path(folder), 60, 96, "embedded")
        found: dict[str, list[Usage]] = {}
        for _ in range(repeats):
            for name, command in commands(newcomer).items():
                found.setdefault(name, []).append(run(command, {}))
    base = [usage.cpu for usage in found[TORCH]]
    for name, usages in found.items():
        own = [usage.cpu for usage in usages]
        ratio = Ratio.of(own, base)
        clock = median(usage.wall for usage in usages)
        print(f"{name:<16}{median(own):>7.2f} s of processors{clock:>7.2f} s{ratio!s:>20}")


if __name__ == "__main__":
    main()
