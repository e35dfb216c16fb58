"""How do all methods of the catalogue compare on one set of cached features?

    python -m pipelines.baselines --views rrc:2,cmo:2 --trials 4 --together --out baselines-results
    python -m pipelines.baselines --source emoji_lt_two_class --views rrc:2,cmo:2 --trials 1 \\
        --seeds 3 --together --out two-class-results

Every method of `ltcache methods` on the same cache: hyper-parameters chosen on validation data with
the same number of trials for each (seed 0), then five seeds; scores on the test split with 95 %
intervals over emoji families, the paired difference to cross entropy, ranks and cost. Checks that
no two methods give equal logits unless the catalogue says that they are the same. The scores are
also written to OUT/scores.csv, which `pipelines.photos --scores` takes into its ranks.

Measured on Emoji-LT with the embedded encoder by the first of these commands: test split (1,651
images, 280 families), five seeds, tuned on the validation split alone; mean ± sd over seeds; groups
many n>100, medium, few n<20; difference to `ce` in mean accuracy per class with its interval
(paired bootstrap). Eleven of the best of 68, and four to compare with; pipelines/README.md has all.

                          mean/class        many      medium         few  against ce
    gcl+h2t           41.7 ± 0.5  57.0 ± 2.2  37.1 ± 0.2  36.0 ± 1.1  +6.4 (4.6 to 8.0)
    gcl               41.7 ± 0.3  56.1 ± 1.1  38.4 ± 0.5  34.7 ± 0.6  +6.4 (4.6 to 8.2)
    lift-lp           41.6 ± 0.4  58.0 ± 2.7  38.0 ± 1.1  33.3 ± 2.6  +6.2 (4.6 to 8.0)
    ldam-drw          41.2 ± 0.2  62.0 ± 0.4  34.7 ± 0.1  33.7 ± 0.3  +5.9 (4.2 to 7.6)
    sage              41.3 ± 0.4  58.6 ± 1.5  36.4 ± 1.4  34.1 ± 3.7  +5.9 (4.3 to 7.7)
    sade              41.1 ± 0.4  58.5 ± 1.8  35.9 ± 1.0  34.4 ± 1.4  +5.8 (4.1 to 7.3)
    tade              41.1 ± 0.5  56.0 ± 3.8  35.4 ± 1.1  37.1 ± 3.2  +5.7 (4.0 to 7.5)
    lt-soups          40.9 ± 0.7  58.8 ± 2.9  37.9 ± 1.4  30.4 ± 2.5  +5.5 (4.1 to 7.0)
    posthoc-la        40.6 ± 0.6  56.4 ± 1.1  35.1 ± 0.7  35.6 ± 1.3  +5.2 (3.5 to 6.9)
    ride-linear+h2t   40.4 ± 0.2  61.7 ± 0.8  35.5 ± 0.6  30.1 ± 1.2  +5.1 (3.6 to 6.5)
    reslt+h2t         40.2 ± 0.5  49.7 ± 2.2  32.0 ± 0.7  44.3 ± 1.8  +4.8 (2.5 to 7.1)
    logit-adjustment  39.6 ± 1.0  58.9 ± 2.9  34.8 ± 1.2  30.9 ± 1.7  +4.3 (3.0 to 5.7)
    tin               38.5 ± 0.4  64.5 ± 0.7  33.8 ± 1.2  24.0 ± 1.1  +3.1 (2.1 to 4.2)
    zero-shot         35.9 ± 0.0  45.3 ± 0.0  27.7 ± 0.0  40.2 ± 0.0  +0.5 (-2.6 to 3.7)
    ce                35.3 ± 0.5  65.0 ± 1.2  30.0 ± 0.9  18.8 ± 0.6

The command, extraction among it, took 91 minutes of one core of an AMD EPYC, the other one busy.
Equal logits: `logit-adjustment` and `balanced-softmax`, as the catalogue says, and no others.

The two-class list (4,440 to 111 images, an explicit group of many and one of few) takes every
method; the score of the sources is the mean of its two classes (`mean_per_class`). Measured by the
second command, nothing tuned but the epoch, on validation data with 11 images of the rare class
(mean of the two classes, then the common and the rare one; test split):

                       mean/class      common        rare  against ce
    knn                95.6 ± 0.0  91.3 ± 0.0  100.0 ± 0.0  +3.8 (-0.1 to 12.2)
    ballad+h2t         95.2 ± 0.2  94.0 ± 0.3   96.3 ± 0.0  +3.3 (1.4 to 6.2)
    ride-linear+h2t    93.9 ± 0.4  95.2 ± 0.7   92.6 ± 0.0  +2.0 (0.4 to 3.2)
    sage               93.3 ± 2.4  95.2 ± 1.8   91.4 ± 5.7  +1.4 (-0.6 to 3.0)
    oltr               93.3 ± 1.8  95.2 ± 1.9   91.4 ± 4.3  +1.4 (-0.5 to 2.9)
    sade               93.2 ± 1.0  96.4 ± 1.5   90.1 ± 2.1  +1.4 (-1.7 to 3.6)
    mislas+h2t         93.1 ± 0.4  89.8 ± 0.7   96.3 ± 0.0  +1.2 (-0.5 to 4.5)
    lt-soups           92.9 ± 0.1  97.0 ± 0.2   88.9 ± 0.0  +1.1 (-5.6 to 4.0)
    lift-lp            92.9 ± 0.3  89.5 ± 0.6   96.3 ± 0.0  +1.0 (-0.9 to 4.1)
    ballad             92.9 ± 0.0  96.8 ± 0.0   88.9 ± 0.0  +1.0 (-5.9 to 4.1)
    marc               92.7 ± 0.6  95.3 ± 1.1   90.1 ± 2.1  +0.8 (-2.9 to 3.0)
    tip-adapter-f      92.7 ± 0.0  96.4 ± 0.1   88.9 ± 0.0  +0.8 (-5.6 to 3.8)
    tade               92.6 ± 1.2  97.6 ± 0.6   87.7 ± 2.1  +0.8 (-3.8 to 4.2)
    ncm                92.5 ± 0.0  96.1 ± 0.0   88.9 ± 0.0  +0.6 (-7.7 to 6.8)
    dr-mu              92.4 ± 0.1  89.8 ± 2.2   95.1 ± 2.1  +0.6 (-0.5 to 2.0)
    dr                 91.9 ± 1.3  87.5 ± 2.7   96.3 ± 0.0  +0.0 (-1.7 to 2.8)
    ce                 91.9 ± 1.4  89.9 ± 4.8   93.8 ± 2.1
    crt                91.3 ± 1.4  88.8 ± 1.8   93.8 ± 4.3  -0.6 (-1.1 to 0.0)
    dr+h2t             91.1 ± 1.3  85.8 ± 2.6   96.3 ± 0.0  -0.8 (-2.7 to 2.0)
    gda                90.3 ± 0.0  99.1 ± 0.0   81.5 ± 0.0  -1.6 (-12.3 to 4.9)
    tin                89.0 ± 2.6  98.9 ± 0.6   79.0 ± 5.7  -2.9 (-14.3 to 4.3)
    ride               87.4 ± 1.1  99.4 ± 0.2   75.3 ± 2.1  -4.5 (-22.5 to 5.1)
    bbn                87.2 ± 2.4  97.8 ± 1.1   76.5 ± 5.7  -4.7 (-21.3 to 4.2)
    logit-adjustment   86.5 ± 1.0  85.3 ± 1.5   87.7 ± 2.1  -5.4 (-11.7 to -1.9)
    ldam-drw           83.2 ± 0.2  66.5 ± 0.5  100.0 ± 0.0  -8.6 (-13.2 to -1.0)
    paco               83.2 ± 0.3  66.4 ± 0.5  100.0 ± 0.0  -8.7 (-13.4 to -0.8)
    gpaco              83.0 ± 0.2  66.0 ± 0.3  100.0 ± 0.0  -8.9 (-13.8 to -1.3)
    zero-shot          81.8 ± 0.0  67.3 ± 0.0   96.3 ± 0.0  -10.1 (-13.0 to -6.2)
    ace                80.7 ± 2.1  99.7 ± 0.0   61.7 ± 4.3  -11.1 (-28.5 to 0.3)
    gcl                80.5 ± 0.3  64.7 ± 0.6   96.3 ± 0.0  -11.4 (-14.0 to -8.2)
    reslt              77.1 ± 7.7  99.9 ± 0.1  54.3 ± 15.4  -14.8 (-29.8 to -4.4)
    post-ot            75.6 ± 0.5  54.9 ± 0.9   96.3 ± 0.0  -16.3 (-18.4 to -13.1)

The other 36: posthoc-la 91.9, disalign 91.9, lws 91.8, reslt-cosine+h2t 91.6, lfme 91.3, reslt+h2t
91.2, gla 91.1, mbj 91.0, cb 91.0, mislas 91.0, grw 90.8, ballad-linear+h2t 90.4, focal 89.7,
ride+h2t 89.7, seesaw 89.6, vl-ltr 87.6, ballad-cosine+h2t 87.3, cross-modal 87.1, ride+cmo 86.8,
lade 86.7, ce+cmo 86.6, balanced-softmax 86.5, tip-adapter 86.2, ballad-cosine 85.7,
mislas-cosine+h2t 83.7, ballad-linear 83.2, mislas-cosine 83.1, ride-linear 82.6, dr-cosine+h2t
81.3, dr-cosine 81.2, gcl+h2t 80.8, gcl-linear 80.4, gcl-linear+h2t 80.1, reslt-cosine 80.1,
bsce+cmo 79.7, tau-norm 78.5.

With 27 test images of the rare class one of them is 3.7 points of its accuracy, and few differences
exclude zero: `ballad+h2t` and `ride-linear+h2t` are above cross entropy. Of the 27 that are more
than five points below it, 16 press the predictions towards equal shares (`post-ot`, `tau-norm`,
`gcl`, cosine classifiers on balanced rows) and pay for 95 to 100 % of the rare class with 28 to
45 % of the common one; 8 (`reslt`, `ace`, `ride-linear`, `ballad-linear`, `ce+cmo` and others) have
95 to 100 % of the common class and miss 6 to 12 of the 27 rare images, on epochs that 11 rare
images chose; `logit-adjustment`, `balanced-softmax` and `lade` lose 5 to 6 points of each. The
aggregation of `tade` and the composites of `cmo` gain nothing here.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np

from ltcache.ablate import Ablation
from ltcache.cache import Cache
from ltcache.methods import METHODS
from ltcache.report import WRITERS
from ltcache.runs import open_run
from pipelines.comparisons import cache_of, compared, options
from pipelines.set_scores import SCORES, SetScores, keep_scores


def main() -> None:
    """Run the comparison and print its table."""
    parser = options(__doc__, "baselines-results")
    parser.add_argument("--methods", help="some of them, by commas")
    chosen = parser.parse_args()
    cache = cache_of(chosen)
    methods = chosen.methods.split(",") if chosen.methods else list(METHODS)
    found = compared(cache, methods, chosen, chosen.out / "ablation")
    keep_scores(chosen.out / SCORES, cache.manifest.name, SetScores.of(cache, found))
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
        every = np.arange(len(cache.rows("test")))
        logits[entry["name"]] = run.logits_of(cache, "test", every).logits
    return [
        (one, two)
        for one, two in combinations(logits, 2)
        if np.array_equal(logits[one], logits[two])
    ]


if __name__ == "__main__":
    main()
