"""Does head-to-tail fusion help: with which partner, which classifier, and how much of it?

    python -m pipelines.h2t --out h2t-results

Every partner (dr, mislas, gcl, ride, reslt, ballad) with each of its classifiers, with and without
head-to-tail fusion in its second stage (a partner that has but one stage gets a second one, in
which the classifier alone is trained), tuned with the same number of trials on validation data;
what the fusion adds in each group of classes, by the paired bootstrap over emoji families. Then the
sweep of the fusing ratio with a linear and a cosine classifier: ratio 0 is the partner itself;
ratio 1 trains on other images than its labels say, so that validation data keep the first, least
harmful epoch. In the directory of pipelines.baselines it takes the runs that are there, and its
table takes the place of theirs.

Measured on Emoji-LT with the embedded encoder, `--trials 4 --together` and a cache of the views
rrc:2 and cmo:2: test split (1,651 images, 280 families), five seeds, tuned on the validation split
alone. What fusion adds to each partner, in points, with 95 % intervals of the paired bootstrap over
families; many n>100, medium, few n<20:

                          mean/class                  many              medium                 few
    dr             +1.6 (1.0 to 2.4)    -0.6 (-1.8 to 0.6)   +2.2 (1.1 to 3.4)   +2.7 (1.6 to 3.9)
    dr-cosine      +0.8 (0.2 to 1.5)    -0.2 (-1.0 to 0.6)  +0.2 (-0.7 to 1.1)   +2.6 (1.3 to 4.0)
    mislas         +0.6 (0.1 to 1.2)    -0.5 (-1.6 to 0.7)   +1.1 (0.2 to 2.1)   +0.8 (0.1 to 1.5)
    mislas-cosine  +0.4 (0.0 to 0.9)    +0.3 (-0.4 to 0.9)  +0.5 (-0.3 to 1.3)  +0.4 (-0.1 to 0.9)
    gcl           +0.0 (-0.6 to 0.7)    +0.9 (-0.3 to 2.0) -1.3 (-2.3 to -0.3)   +1.4 (0.2 to 2.6)
    gcl-linear    +0.3 (-0.2 to 0.9)    -0.9 (-1.8 to 0.1)  +0.5 (-0.4 to 1.6)   +1.0 (0.2 to 1.7)
    ride           +1.3 (0.7 to 1.9)   -0.8 (-1.5 to -0.2)   +1.3 (0.4 to 2.3)   +2.8 (1.5 to 4.5)
    ride-linear    +3.9 (2.4 to 5.4)   -4.2 (-6.0 to -2.6)   +3.8 (1.9 to 5.6) +10.8 (7.5 to 14.5)
    reslt         +1.0 (-0.2 to 2.1)   -7.2 (-9.5 to -5.0)  +0.8 (-0.8 to 2.4)  +8.0 (5.8 to 10.3)
    reslt-cosine  +0.3 (-1.2 to 1.7) -11.7 (-14.9 to -8.5)  +0.2 (-1.5 to 2.0) +10.2 (7.3 to 13.1)
    ballad        +0.0 (-1.2 to 1.3)   -3.7 (-5.6 to -1.8)  -1.4 (-3.0 to 0.4)   +5.1 (2.3 to 8.2)
    ballad-linear  +1.3 (0.8 to 1.9)    +0.2 (-0.5 to 1.0)   +0.9 (0.2 to 1.5)   +2.8 (1.6 to 4.4)
    ballad-cosine  +1.1 (0.3 to 1.8)    +0.2 (-1.3 to 1.6)   +1.2 (0.2 to 2.1)  +1.7 (-0.1 to 3.4)

Accuracy by ratio, mean over five seeds, nothing tuned but the epoch:

    dr+h2t, ratio          mean/class   many  medium    few
    0                            37.5   64.3    32.6   22.8
    0.1                          38.2   64.2    33.5   23.8
    0.2                          38.8   63.7    34.2   25.2
    0.25                         39.3   63.5    35.1   25.5
    0.3                          39.6   62.9    35.1   27.1
    0.4                          40.3   61.1    35.8   29.9
    0.5                          40.4   58.7    35.1   33.1
    0.75                         37.9   56.6    32.2   31.0
    1                            35.8   56.6    30.2   27.0
    dr-cosine+h2t, ratio   mean/class   many  medium    few
    0                            38.7   64.3    34.0   24.8
    0.1                          39.2   64.3    34.5   25.5
    0.2                          39.3   64.2    34.3   26.2
    0.25                         39.6   63.8    34.8   26.8
    0.3                          40.8   63.1    36.3   29.0
    0.4                          41.3   61.9    36.6   31.2
    0.5                          41.3   61.0    35.8   33.3
    0.75                         38.4   55.4    31.9   34.0
    1                            36.5   62.6    30.3   24.1
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ltcache.cache import Cache
from ltcache.methods import METHODS
from ltcache.metrics import percent
from ltcache.tables import markdown_table
from pipelines.comparisons import cache_of, compared, difference_table, options

RATIOS = (0.0, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0)
GROUPS = ("many", "medium", "few", "mean_per_class")


def main() -> None:
    """Run the comparison and the sweep and print their tables."""
    chosen = options(__doc__, "h2t-results").parse_args()
    for table in tables(cache_of(chosen), chosen):
        print(table)


def tables(cache: Cache, chosen: Any) -> Iterator[str]:
    """Yield what fusion adds to each partner that the cache has what it needs for, and the sweeps,
    as Markdown; OUT/h2t.json holds the numbers."""
    fused = [name for name in METHODS if name.endswith("+h2t")]
    partners = [name.removesuffix("+h2t") for name in fused]
    found = compared(cache, [*partners, *fused], chosen, chosen.out / "ablation")
    there = {entry["name"] for entry in found.comparison["entries"]}
    pairs = [pair for pair in zip(partners, fused, strict=True) if there.issuperset(pair)]
    table, records = difference_table(cache, found, pairs)
    sweeps = {name: sweep(cache, name, chosen) for name in ("dr+h2t", "dr-cosine+h2t")}
    (chosen.out / "h2t.json").write_text(json.dumps({"pairs": records, "sweep": sweeps}, indent=1))
    yield table
    for name, rows in sweeps.items():
        lines = [[f"{row['ratio']:g}", *(percent(row[g]) for g in GROUPS)] for row in rows]
        yield "\n" + markdown_table([f"{name}, ratio", *GROUPS], lines)


def sweep(cache: Cache, method: str, chosen: Any) -> list[dict[str, float | None]]:
    """Return the test accuracy of each group at each ratio, mean over seeds, nothing tuned; None of
    a group without classes."""
    chosen = type(chosen)(**{**vars(chosen), "trials": 1})
    grid = {"fusion.ratio": RATIOS}
    found = compared(cache, [method], chosen, chosen.out / f"sweep-{method}", grid=grid)
    rows = []
    for entry in found.comparison["entries"]:
        scores = {group: entry["scores"]["test"][group] for group in GROUPS}
        means = {group: score and score["mean"] for group, score in scores.items()}
        rows.append({"ratio": entry["overrides"]["fusion.ratio"], **means})
    return rows


if __name__ == "__main__":
    main()
