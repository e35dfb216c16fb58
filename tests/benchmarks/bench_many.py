"""Many runs trained together against one by one, and what the planner makes of it.

    OMP_NUM_THREADS=2 python -m tests.benchmarks.bench_many [--runs 32] [--epochs 4] [--repeats 5]

The size is that of Emoji-LT's training split: 3,922 x 512, 56 classes, 560 validation rows that
choose the epoch. The runs are seeds of a method at four values of one setting. ``together`` is
always one problem, ``planned`` is :func:`ltcache.fit.fit_many` as it comes. A ratio is the median
over rounds of one by one / other, run in turn within a round; ``per step`` is the median time of
one by one for one step of one run, the evaluation of epochs included.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from unittest import mock

import torch

from ltcache.fit import LabelledRows, fit_head
from ltcache.fit import many as planner
from ltcache.fit.many import FitJob, fit_many
from ltcache.heads import HeadContext
from ltcache.methods import METHODS, Method, override
from tests.benchmarks.bench_fit import long_tail
from tests.benchmarks.timing import CLOCKS, Ratio, compare

CASES: list[tuple[str, str, dict[str, object], tuple[str, Sequence[object]]]] = [
    ("logit-adjustment", "adamw", {}, ("loss.tau", (0.5, 1.0, 1.5, 2.0))),
    ("logit-adjustment", "sgd", {"optimisation.optimiser": "sgd"}, ("loss.tau", (0.5, 1, 1.5, 2))),
    ("ce", "adamw, rates", {}, ("optimisation.lr", (1e-4, 3e-4, 1e-3, 3e-3))),
    ("lift-lp", "adamw, rates", {}, ("optimisation.lr", (1e-3, 3e-3, 1e-2, 3e-2))),
    ("seesaw", "adamw", {}, ("loss.p", (0.4, 0.6, 0.8, 1.0))),
]


class Problem:
    """Overlapping Gaussian classes with a long tail."""

    def __init__(self, rows: int, dim: int, classes: int) -> None:
        generator = torch.Generator().manual_seed(0)
        means = 0.15 * torch.randn(classes, dim, generator=generator)
        labels, even = long_tail(rows, classes), torch.arange(classes).repeat(10)
        self.rows, self.val = (
            LabelledRows(means[y] + torch.randn(len(y), dim, generator=generator), y)
            for y in (labels, even)
        )
        self.context = HeadContext(dim, classes, torch.bincount(labels, minlength=classes))

    def one_by_one(self, jobs: Sequence[FitJob]) -> None:
        """Fit each job alone."""
        for job in jobs:
            fit_head(job.method, self.rows, self.context, val=self.val, seed=job.seed)

    def planned(self, jobs: Sequence[FitJob]) -> None:
        """Fit all jobs as the planner says."""
        fit_many(jobs, self.rows, self.context, val=self.val)

    def together(self, jobs: Sequence[FitJob], at_once: int) -> None:
        """Fit so many jobs at once, whatever the planner says."""
        with mock.patch.object(planner, "runs_at_once", return_value=at_once):
            self.planned(jobs)


def jobs_of(method: Method, key: str, values: Sequence[object], runs: int) -> list[FitJob]:
    """Return seeds of a method at each of several values of a setting."""
    seeds = -(-runs // len(values))
    jobs = [
        FitJob(override(method, {key: value}), seed) for value in values for seed in range(seeds)
    ]
    return jobs[:runs]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=3_922)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, default=56)
    parser.add_argument("--runs", type=int, default=32)
    parser.add_argument("--at-once", type=int, nargs="*", default=[], help="also so many together")
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 512, 2048])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", type=int, default=len(CASES), help="the first so many of them")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    problem = Problem(options.rows, options.dim, options.classes)
    print(f"{options.rows} x {options.dim}, {options.classes} classes, {options.runs} runs, "
          f"{options.threads} threads")  # fmt: skip
    sizes = [*options.at_once, options.runs]
    print(
        f"{'method':<18}{'optimisation':<14}{'batch':>6}{'ms per step':>13}{'planned':>22}", end=""
    )
    print("".join(f"{f'{size} together':>22}" for size in sizes))
    for name, optimisation, settings, (key, values) in CASES[: options.cases]:
        for batch in options.batches:
            own = {**settings, "optimisation.batch": batch, "optimisation.epochs": options.epochs}
            jobs = jobs_of(override(METHODS[name], own), key, values, options.runs)
            ways: dict[str, Callable[[], None]] = {
                "one by one": partial(problem.one_by_one, jobs),
                "planned": partial(problem.planned, jobs),
                **{f"{n}": partial(problem.together, jobs, n) for n in sizes},
            }
            times = compare(ways, options.repeats, options.clock)
            steps = options.epochs * -(-options.rows // batch) * len(jobs)
            step = statistics.median(times["one by one"]) / steps * 1000
            print(f"{name:<18}{optimisation:<14}{batch:>6}{step:>13.3f}", end="")
            for way in ("planned", *map(str, sizes)):
                ratio = Ratio.of(times["one by one"], times[way])
                print(f"{ratio!s:>22}", end="", flush=True)
            print()


if __name__ == "__main__":
    main()
