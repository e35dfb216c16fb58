"""What fits of several experts cost beside those of one classifier.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_experts [--methods ride,sade,reslt]
        [--rows N] [--dim D] [--classes C] [--repeats 3] [--clock wall|cpu]

The size is that of Emoji-LT's training split unless told; epochs are chosen on ten rows of each
class. A ratio is the median over rounds of a method's time over that of `dr` (decoupled training
with a balanced second stage), run in turn. What the products of matrices of `ride` take by
themselves is printed beside them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from statistics import median

import torch

from ltcache.fit import fit_head
from ltcache.methods import method_by_name
from tests.benchmarks.bench_many import Problem
from tests.benchmarks.timing import CLOCKS, Ratio, compare, seconds

BASE = "dr"


def products(problem: Problem, steps: int, batch: int, epochs: int) -> None:
    """Make the products of three experts with adapters of D / 4, as many as a fit does."""
    dim, classes = problem.context.dim, problem.context.num_classes
    hidden, rows = dim // 4, torch.randn(3, batch, dim)
    down, up, weight = (torch.randn(3, *shape) for shape in
                        ((dim, hidden), (hidden, dim), (dim, classes)))  # fmt: skip
    val = torch.randn(3, len(problem.val), dim)
    for _ in range(steps):  # three forwards, two gradients each but that of the features
        low, logits = rows @ down, rows @ weight
        high = low @ up
        back = logits @ weight.mT
        _ = high.mT @ logits, back @ up.mT, low.mT @ back, rows.mT @ low
    for _ in range(epochs):
        _ = (val @ down) @ up, val @ weight


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--methods", default="ride,sade,reslt")
    parser.add_argument("--rows", type=int, default=3_922)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, default=56)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    chosen = parser.parse_args(arguments)
    problem = Problem(chosen.rows, chosen.dim, chosen.classes)
    names = [BASE, *chosen.methods.split(",")]

    def fit(name: str) -> None:
        fit_head(method_by_name(name), problem.rows, problem.context, val=problem.val)

    times = compare({n: partial(fit, n) for n in names}, chosen.repeats, chosen.clock)
    how = method_by_name("ride").stages[0].optimisation  # type: ignore[union-attr]
    batch, epochs = how.batch_for(chosen.rows), how.epochs_for(chosen.rows)
    steps = epochs * how.steps_per_epoch(chosen.rows)
    floor = seconds(partial(products, problem, steps, batch, epochs), chosen.clock)
    print(f"{chosen.rows} x {chosen.dim}, {chosen.classes} classes, batch {batch}, {epochs} epochs")
    print(f"{torch.get_num_threads()} threads; the products of three experts: {floor:.1f} s")
    for name in names:
        ratio = Ratio.of(times[name], times[BASE])
        print(f"{name:<14}{median(times[name]):>7.1f} s, {ratio} times {BASE}", flush=True)


if __name__ == "__main__":
    main()
