"""Time of ``optimiser="lbfgs"`` to near the optimum against scikit-learn's LogisticRegression.

    OMP_NUM_THREADS=2 python -m tests.benchmarks.bench_convex [--rows 11585] [--classes 1000]

Both minimise the same function, mean cross entropy + 1 / (2 C N) |W|^2 with a free bias, on float32
features: long-tailed Gaussian classes that overlap, with standard deviations d^(-1/2) in directions
that are turned at random, and standardised channels. The optimum is the lowest value that anybody
reached. Printed are both traces' times to within 10, 1 and 0.1 % of it, the time of scikit-learn
until it stops by itself at its default tolerance with how far from the optimum that is, and ratios.
Times are those of a whole fit: ours with centring, turning and the warm start.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any
from unittest import mock

import torch
from scipy import optimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from ltcache.fit import FitOptions, LabelledRows, fit_head
from ltcache.heads import HeadContext
from ltcache.methods import METHODS, override
from tests.benchmarks.bench_fit import long_tail
from tests.benchmarks.timing import CLOCKS, Ratio

Trace = list[tuple[float, float]]  # seconds since the beginning, objective
GAPS = (0.1, 0.01, 0.001)


def data(rows: int, dim: int, classes: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features (N, D), every channel of mean 0 and variance 1, and labels (N,)."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.arange(1, dim + 1) ** -0.5
    labels = long_tail(rows, classes)
    means = spread * torch.randn(classes, dim, generator=generator)
    features = (means[labels] + torch.randn(rows, dim, generator=generator)) * scale
    features = features @ torch.linalg.qr(torch.randn(dim, dim, generator=generator))[0]
    features = (features - features.mean(0)) / features.std(0, correction=0)
    return features, labels


def ours(features: torch.Tensor, labels: torch.Tensor, decay: float, clock: Any) -> Trace:
    """Fit and return the objective after each iteration."""
    settings = {
        "optimisation.optimiser": "lbfgs", "optimisation.weight_decay": decay,
        "feature.transform": "none", "optimisation.tolerance": 1e-6,
    }  # fmt: skip
    method, trace = override(METHODS["ce"], settings), []
    context = HeadContext(features.shape[1], int(labels.max()) + 1, torch.bincount(labels))
    begin = clock()

    def progress(record: dict[str, Any]) -> None:
        trace.append((clock() - begin, record["loss"]))

    rows, options = LabelledRows(features, labels), FitOptions(progress=progress)
    fit_head(method, rows, context, choose=False, options=options)
    return trace


def theirs(
    features: torch.Tensor, labels: torch.Tensor, decay: float, most: int, clock: Any
) -> tuple[Trace, bool]:
    """Fit and return scikit-learn's objective after each evaluation, and whether it converged."""
    trace: Trace = []
    begin = clock()
    minimise = optimize.minimize

    def watched(function: Any, *args: Any, **options: Any) -> Any:
        def timed(*values: Any) -> Any:
            found = function(*values)
            trace.append((clock() - begin, float(found[0])))
            return found

        return minimise(timed, *args, **options)

    model = LogisticRegression(C=1 / (decay * len(labels)), max_iter=most)
    with (
        mock.patch("sklearn.linear_model._logistic.optimize.minimize", watched),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        model.fit(features.numpy(), labels.numpy())
    stopped = not any(issubclass(w.category, ConvergenceWarning) for w in caught)
    return [*trace, (clock() - begin, min(value for _, value in trace))], stopped


def time_to(trace: Trace, target: float) -> float | None:
    """Return when a trace is first at most a target, or None."""
    return next((seconds for seconds, value in trace if value <= target), None)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=11_585)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--inverse", type=float, nargs="+", default=[1.0, 0.01], help="C")
    parser.add_argument("--spread", type=float, default=0.5, help="of the class means")
    parser.add_argument("--max-iter", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    features, labels = data(options.rows, options.dim, options.classes, options.spread)
    print(f"{options.rows} x {options.dim}, {options.classes} classes, {options.threads} threads")
    clock = CLOCKS[options.clock]
    for inverse in options.inverse:
        decay = 1 / (inverse * options.rows)
        rounds = []
        for _ in range(options.repeats):
            own = ours(features, labels, decay, clock)
            other, stopped = theirs(features, labels, decay, options.max_iter, clock)
            rounds.append((own, other))
        best = min(value for pair in rounds for trace in pair for _, value in trace)
        own, other = rounds[-1]
        print(f"C = {inverse:g}: optimum {best:.5f}, at the start {own[0][1]:.3f}")
        for name, trace in (("ours", own), ("scikit-learn", other)):
            end, value = trace[-1]
            print(
                f"  {name}: {len(trace) - 1} iterations, {end:.1f} s, {value / best - 1:.2%} above"
            )
        if not stopped:
            print("  scikit-learn did not converge")
        ends = {f"{gap:.1%} of the optimum": best * (1 + gap) for gap in GAPS}
        ends["1.0% of where scikit-learn stops"] = 1.01 * other[-1][1]
        for what, target in ends.items():
            pairs = [[time_to(trace, target) for trace in pair] for pair in rounds]
            owns, others = ([p[side] for p in pairs if p[side] is not None] for side in (0, 1))
            if min(len(owns), len(others)) < len(rounds):
                print(f"  within {what}: {pairs[-1]} s; not all arrived")
                continue
            peer = Ratio.of(others, owns)
            end = Ratio.of([other[-1][0] for _, other in rounds], owns)
            print(
                f"  within {what}: {owns[-1]:.2f} s against {others[-1]:.2f} s, {peer} times",
                end="",
            )
            print(f" shorter; {end} times shorter than until it stops")


if __name__ == "__main__":
    main()
