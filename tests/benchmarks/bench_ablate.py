"""Ablations: the whole catalogue as one command, and linear probes by the thousand.

    python -m tests.benchmarks.bench_ablate [--cache CACHE] [--methods all] [--seeds 3]
        [--probes 100] [--repeats 3]

``catalogue``: `ltcache ablate` as a person types it, a cold process each time, on Emoji-LT with
the embedded encoder, which is extracted first; and which methods take the time. ``probes``: linear
heads on 11,585 x 512 with 100 classes by two losses, several rates and seeds, through
:func:`ltcache.fit.fit_many`, on one thread; beside the two products of their steps by themselves
and scikit-learn's LogisticRegression (C = 1) on the same rows, in turn.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from ltcache.fit.many import FitJob, fit_many
from ltcache.methods import METHODS, override
from tests.benchmarks.bench_fit import Problem
from tests.benchmarks.commands import run
from tests.benchmarks.timing import CLOCKS, Ratio, compare

ROWS, DIM, CLASSES = 11_585, 512, 100
_RATES = (3e-4, 1e-3, 3e-3, 1e-2)
_SLOWEST = 8


def catalogue(cache: Path, work: Path, methods: str, seeds: int, repeats: int) -> None:
    """Print what the whole command takes."""
    words = ["--methods", methods, "--seeds", str(seeds)]
    taken = []
    for number in range(repeats):
        out = work / f"ablation-{number}"
        command = [sys.executable, "-m", "ltcache", "ablate", str(cache), *words, "--out", str(out)]
        taken.append(run(command, {}))
        print(f"  {taken[-1].wall:.1f} s, {taken[-1].cpu:.1f} s of processors", flush=True)
    entries = json.loads((out / "results.json").read_text())["entries"]
    spent = {entry["name"]: seeds * entry["cost"]["head_seconds"] for entry in entries}
    order = sorted(spent, key=lambda name: -spent[name])
    slow, total = order[:_SLOWEST], sum(spent.values())
    share = sum(spent[name] for name in slow) / total
    print(
        f"catalogue: {len(spent)} methods x {seeds} seeds in {median(t.wall for t in taken):.1f} s "
        f"({min(t.wall for t in taken):.1f} to {max(t.wall for t in taken):.1f}); fits {total:.0f} "
        f"s, {share:.0%} of them by {', '.join(f'{n} {spent[n]:.1f}' for n in slow)}"
    )


def probes(number: int, repeats: int, clock: str) -> None:
    """Print what linear probes take, for a thousand of them."""
    torch.set_num_threads(1)
    problem = Problem(ROWS, DIM, CLASSES, "cpu")
    settings = [(loss, rate) for loss in ("ce", "logit-adjustment") for rate in _RATES]
    jobs = [
        FitJob(override(METHODS[name], {"optimisation.lr": rate}), seed)
        for seed in range(-(-number // len(settings)))
        for name, rate in settings
    ][:number]
    how = jobs[0].method.stages[0].optimisation  # type: ignore[union-attr]
    batch, epochs = how.batch_for(ROWS), how.epochs_for(ROWS)

    def products() -> None:
        for _ in range(epochs):
            problem.floor(batch, "fp32")

    def sklearn() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            rows = problem.rows
            LogisticRegression().fit(rows.features.numpy(), rows.labels.numpy())

    ways = {
        "ltcache": partial(fit_many, jobs, problem.rows, problem.context, choose=False),
        "products": products,
        "scikit-learn": sklearn,
    }
    times = compare(ways, repeats, clock)
    each = [taken / len(jobs) for taken in times["ltcache"]]
    print(
        f"probes: {len(jobs)} of {epochs} epochs, batch {batch}: a thousand take "
        f"{1000 * median(each):.0f} s of one thread; products / fit "
        f"{Ratio.of(times['products'], each)}; scikit-learn / fit "
        f"{Ratio.of(times['scikit-learn'], each)}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--methods", default="all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--probes", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="of the probes")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-ablate-") as folder:
        cache = chosen.cache or Path(folder) / "cache"
        if chosen.cache is None:
            command = ["extract", "emoji_lt", "--out", str(cache)]
            run([sys.executable, "-m", "ltcache", *command], {})
        if chosen.methods:
            catalogue(cache, Path(folder), chosen.methods, chosen.seeds, chosen.repeats)
    if chosen.probes:
        probes(chosen.probes, chosen.repeats, chosen.clock)


if __name__ == "__main__":
    main()
