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

Measured with the form before: fusion as one more stage after all of the partner's (now
`NAME+h2t-third`), by cross entropy, in which blocks of experts trained along, and gcl with cross
entropy in its second stage; ratio 0 was that stage with no fusion. On Emoji-LT with the embedded
encoder and `--trials 4`: test split (1,651 images, 280 families), five seeds, tuned on the
validation split alone. What fusion adds, in points, with 95 % intervals of the paired bootstrap
over families; many n>100, medium, few n<20:

                              mean/class                many              medium                 few
    dr+h2t             +2.3 (1.5 to 3.0) -1.7 (-2.9 to -0.7)   +2.5 (1.5 to 3.6)   +5.2 (3.6 to 6.9)
    dr-cosine+h2t      +2.7 (1.9 to 3.6) -1.9 (-3.5 to -0.4)   +3.1 (1.9 to 4.4)   +5.9 (4.0 to 7.7)
    mislas+h2t         +2.0 (1.3 to 2.8) -2.1 (-3.4 to -0.6)   +2.9 (1.7 to 4.2)   +4.1 (2.8 to 5.4)
    mislas-cosine+h2t  +0.5 (0.2 to 0.8)  +0.4 (-0.1 to 1.0)   +0.8 (0.3 to 1.2)  +0.3 (-0.1 to 0.7)
    gcl+h2t           -0.4 (-1.1 to 0.3)   +3.2 (1.3 to 5.4)  -0.7 (-1.6 to 0.3) -3.0 (-4.2 to -1.9)
    gcl-linear+h2t    -0.5 (-1.1 to 0.2)   +2.6 (1.2 to 4.3) -1.6 (-2.6 to -0.6) -1.4 (-2.4 to -0.5)
    ride+h2t           +1.8 (0.4 to 3.2) -6.0 (-8.8 to -3.6)   +3.8 (1.5 to 6.1)   +5.1 (2.9 to 7.6)
    ride-linear+h2t    +4.6 (3.3 to 6.0) -3.3 (-5.2 to -1.4)   +4.6 (2.8 to 6.4) +11.3 (8.1 to 14.9)
    reslt+h2t          +1.5 (0.5 to 2.6)   +4.5 (2.0 to 7.1)   +2.7 (1.2 to 4.2) -2.6 (-4.3 to -0.9)
    reslt-cosine+h2t   +1.4 (0.2 to 2.6)   +4.1 (1.7 to 6.6)   +4.4 (2.4 to 6.3) -5.2 (-7.0 to -3.4)
    ballad+h2t        +0.0 (-1.2 to 1.3) -3.7 (-5.6 to -1.8)  -1.4 (-3.0 to 0.4)   +5.1 (2.3 to 8.2)
    ballad-linear+h2t +0.6 (-1.0 to 2.2)  +2.6 (-0.4 to 5.5)  -0.2 (-2.3 to 2.0)  +0.2 (-3.2 to 3.7)
    ballad-cosine+h2t +1.3 (-0.2 to 2.6)  -0.2 (-2.4 to 1.8)  +1.3 (-0.6 to 3.0)  +2.5 (-1.0 to 5.9)

Accuracy by ratio, mean ± sd over five seeds, nothing tuned but the epoch:

    dr+h2t, ratio            mean/class         many       medium          few
    0                        36.9 ± 0.3   64.4 ± 0.9   31.6 ± 0.2   22.0 ± 0.6
    0.1                      37.7 ± 0.3   64.6 ± 0.6   32.4 ± 0.6   23.1 ± 0.8
    0.2                      38.7 ± 0.5   64.0 ± 0.5   34.1 ± 1.1   24.5 ± 0.5
    0.25                     38.8 ± 0.3   63.7 ± 0.7   34.4 ± 0.8   24.9 ± 0.7
    0.3                      39.4 ± 0.5   63.0 ± 0.9   35.1 ± 0.7   26.2 ± 1.2
    0.4                      40.4 ± 0.6   61.7 ± 0.3   35.9 ± 0.6   29.5 ± 1.6
    0.5                      40.4 ± 0.4   58.0 ± 0.6   35.6 ± 0.6   33.1 ± 1.0
    0.75                     38.3 ± 1.3   54.6 ± 5.5   33.1 ± 0.8   32.5 ± 2.6
    1                        36.9 ± 0.6   54.2 ± 1.9   32.0 ± 0.8   29.9 ± 2.1
    dr-cosine+h2t, ratio     mean/class         many       medium          few
    0                        38.8 ± 0.7   64.2 ± 0.5   34.3 ± 0.9   24.5 ± 1.2
    0.1                      39.7 ± 0.5   64.4 ± 0.8   35.2 ± 0.3   25.8 ± 1.5
    0.2                      40.1 ± 0.6   64.1 ± 0.9   35.6 ± 0.9   27.0 ± 1.4
    0.25                     40.4 ± 0.7   63.5 ± 0.7   36.3 ± 1.1   27.4 ± 1.3
    0.3                      41.1 ± 0.3   62.6 ± 0.4   37.5 ± 0.5   28.7 ± 1.2
    0.4                      41.4 ± 0.2   60.9 ± 0.4   37.7 ± 0.7   30.8 ± 0.8
    0.5                      41.5 ± 0.6   60.1 ± 1.4   36.3 ± 1.2   33.9 ± 2.7
    0.75                     39.8 ± 0.6   59.3 ± 3.8   34.3 ± 0.8   31.9 ± 2.4
    1                        38.8 ± 0.6   60.3 ± 1.2   33.7 ± 0.3   28.5 ± 0.8

Training the 130 runs of the pairs took 23 minutes, counted run by run, and the sweeps 3 minutes on
two CPU cores.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ltcache.cache import Cache
from ltcache.methods import METHODS
from ltcache.metrics import percent
from ltcache.report import markdown_table
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
