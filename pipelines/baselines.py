"""How do all methods of the catalogue compare on one set of cached features?

    python -m pipelines.baselines --out baselines-results
    python -m pipelines.baselines --source emoji_lt_two_class --out two-class-results

Every method of `ltcache methods` on the same cache: hyper-parameters chosen on validation data with
the same number of trials for each (seed 0), then five seeds; scores on the test split with 95 %
intervals over emoji families, the paired difference to cross entropy, ranks and cost. Checks that
no two methods give equal logits unless the catalogue says that they are the same.

The two-class list is tried with every method that its features allow; the score of the sources is
the mean of its two classes (`mean_per_class`).
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np

from ltcache.ablate import Ablation
from ltcache.cache import Cache
from ltcache.methods import METHODS
from ltcache.report import WRITERS
from ltcache.run import open_run
from pipelines.comparisons import cache_of, compared, options


def main() -> None:
    """Run the comparison and print its table."""
    parser = options(__doc__, "baselines-results")
    parser.add_argument("--methods", help="some of them, by commas")
    chosen = parser.parse_args()
    cache = cache_of(chosen)
    methods = chosen.methods.split(",") if chosen.methods else list(METHODS)
    found = compared(cache, methods, chosen, chosen.out / "ablation")
    print(WRITERS["md"](found.comparison, "test"))
    equal = equal_logits(cache, found)
    said = {frozenset((name, METHODS[name].same_as)) for name in methods if METHODS[name].same_as}
    surprising = [pair for pair in equal if frozenset(pair) not in said]
    print(f"equal logits: {equal}; not in the catalogue: {surprising or 'none'}")
    if surprising:
        raise SystemExit(1)


def equal_logits(cache: Cache, found: Ablation) -> list[tuple[str, str]]:
    """Return the pairs of lines whose first seeds give equal logits on the test rows."""
    logits = {}
    for entry in found.comparison["entries"]:
        if any(choice.get("tau") == 0.0 for choice in entry["choices"][0]):
            continue  # validation data chose to adjust nothing
        run = open_run(Path(found.out) / entry["runs"][0])
        field, view = run.record["field"], run.method.feature.eval_view
        logits[entry["name"]] = run.logits(cache.features("test", field, view))
    return [
        (one, two)
        for one, two in combinations(logits, 2)
        if np.array_equal(logits[one], logits[two])
    ]


if __name__ == "__main__":
    main()
