"""Does head-to-tail fusion help: with which partner, which classifier, and how much of it?

    python -m pipelines.h2t --out h2t-results

Every partner (dr, mislas, gcl, ride, reslt, ballad) with each of its classifiers, with and without
one more stage of head-to-tail fusion, tuned with the same number of trials on validation data; what
the fusion adds in each group of classes, by the paired bootstrap over emoji families. Then the
sweep of the fusing ratio with a linear and a cosine classifier: ratio 0 is the same stage with no
fusion at all, so it tells what more training alone would do; ratio 1 trains on other images than
its labels say, so that validation data keep the first, least harmful epoch. In the directory of
pipelines.baselines it takes the runs that are there.
"""

from __future__ import annotations

import json
from typing import Any

from ltcache.cache import Cache
from ltcache.methods import METHODS
from ltcache.report import markdown_table
from pipelines.comparisons import cache_of, compared, difference_table, options

RATIOS = (0.0, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0)
GROUPS = ("many", "medium", "few", "mean_per_class")


def main() -> None:
    """Run the comparison and the sweep and print their tables."""
    chosen = options(__doc__, "h2t-results").parse_args()
    cache = cache_of(chosen)
    fused = [name for name in METHODS if name.endswith("+h2t")]
    partners = [name.removesuffix("+h2t") for name in fused]
    found = compared(cache, [*partners, *fused], chosen, chosen.out / "ablation")
    table, records = difference_table(cache, found, list(zip(partners, fused, strict=True)))
    sweeps = {name: sweep(cache, name, chosen) for name in ("dr+h2t", "dr-cosine+h2t")}
    (chosen.out / "h2t.json").write_text(json.dumps({"pairs": records, "sweep": sweeps}, indent=1))
    print(table)
    for name, rows in sweeps.items():
        lines = [[f"{row['ratio']:g}", *(f"{100 * row[g]:.1f}" for g in GROUPS)] for row in rows]
        print("\n" + markdown_table([f"{name}, ratio", *GROUPS], lines))


def sweep(cache: Cache, method: str, chosen: Any) -> list[dict[str, float]]:
    """Return the test accuracy of each group at each ratio, mean over seeds, nothing tuned."""
    chosen = type(chosen)(**{**vars(chosen), "trials": 1})
    grid = {"fusion.ratio": RATIOS}
    found = compared(cache, [method], chosen, chosen.out / f"sweep-{method}", grid=grid)
    return [
        {
            "ratio": entry["overrides"]["fusion.ratio"],
            **{group: entry["scores"]["test"][group]["mean"] for group in GROUPS},
        }
        for entry in found.comparison["entries"]
    ]


if __name__ == "__main__":
    main()
