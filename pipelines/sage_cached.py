"""What do Sage's two parts add on cached features: guidance by class texts, and compensation?

    python -m pipelines.sage_cached --out sage-results

A reconstruction: of Sage only the abstract is public. Rows: a cosine head from the class texts with
logit adjustment (neither part), with attention over the class texts, with the compensation, with
both; the weight of the compensation; and its three estimators.
"""

from __future__ import annotations

from ltcache.report import WRITERS
from pipelines.comparisons import cache_of, compared, difference_table, options

WEIGHTS = (0.0, 0.05, 0.1, 0.25, 0.5, 1.0)
ESTIMATORS = ("finite_sample", "optimism", "drift")


def main() -> None:
    """Run the comparisons and print their tables."""
    chosen = options(__doc__, "sage-results").parse_args()
    cache = cache_of(chosen)
    chosen.trials = 1
    parts = compared(
        cache,
        ["sage"],
        chosen,
        chosen.out / "parts",
        grid={"head": ("cosine", "sg_attention"), "loss.lam": (0.0, 0.1)},
    )
    weights = compared(cache, ["sage"], chosen, chosen.out / "weights", grid={"loss.lam": WEIGHTS})
    estimators = compared(
        cache,
        ["sage"],
        chosen,
        chosen.out / "estimators",
        grid={"compensation.estimator": ESTIMATORS},
    )
    for found in (parts, weights, estimators):
        print(WRITERS["md"](found.comparison, "test"))
    names = [entry["name"] for entry in parts.comparison["entries"]]
    print(difference_table(cache, parts, [(names[0], name) for name in names[1:]])[0])


if __name__ == "__main__":
    main()
