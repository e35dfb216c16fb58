"""What do Sage's two parts add on cached features: guidance by class texts, and compensation?

    python -m pipelines.sage_cached --out sage-results

A reconstruction: of Sage only the abstract is public. Rows: a cosine head from the class texts with
logit adjustment (neither part), with the compensation, with attention over the class texts, with
both, each with the same learning rates and strengths of adjustment tried; then the weight of the
compensation, and its three estimators, nothing tuned but the epoch.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ltcache.methods import METHODS, Method, override
from ltcache.report import WRITERS
from pipelines.comparisons import cache_of, compared, difference_table, options

TRIED = {"optimisation.lr": (3e-3, 1e-3, 9e-3), "loss.tau": (1.0, 0.5, 1.5)}
WEIGHTS = (0.0, 0.05, 0.1, 0.25, 0.5, 1.0)
ESTIMATORS = ("finite_sample", "optimism", "drift")


def main() -> None:
    """Run the comparisons and print their tables."""
    parser = options(__doc__, "sage-results")
    parser.set_defaults(trials=4)
    chosen = parser.parse_args()
    cache = cache_of(chosen)
    rows = [
        row("neither", {"head": "cosine", "loss.lam": 0.0}),
        row("compensation", {"head": "cosine"}),
        row("attention", {"loss.lam": 0.0}),
        row("both", {}),
    ]
    parts = compared(cache, rows, chosen, chosen.out / "parts", tried=TRIED, baseline="neither")
    plain = argparse.Namespace(**{**vars(chosen), "trials": 1})
    weights = compared(cache, ["sage"], plain, chosen.out / "weights", grid={"loss.lam": WEIGHTS})
    estimators = compared(
        cache,
        ["sage"],
        plain,
        chosen.out / "estimators",
        grid={"compensation.estimator": ESTIMATORS},
    )
    for found in (parts, weights, estimators):
        print(WRITERS["md"](found.comparison, "test"))
    print(difference_table(cache, parts, [("neither", method.name) for method in rows[1:]])[0])


def row(name: str, overrides: Mapping[str, Any]) -> Method:
    """Return Sage with some settings changed, under a name of its own."""
    return replace(override(METHODS["sage"], overrides), name=name)


if __name__ == "__main__":
    main()
