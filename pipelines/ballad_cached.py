"""What does BALLAD's second phase add to a frozen encoder, and what of it does the work?

    python -m pipelines.ballad_cached --out ballad-results

Phase B on features of an encoder that phase A has not tuned: the adapter of the released code and
that of the poster (with a ReLU), the share of the adapter in the mixture, class-aware against plain
sampling, and the classifiers that may stand behind it; zero-shot is the same without any adapter.

Measured on Emoji-LT with the embedded encoder: test split (1,651 images, 280 families), five seeds,
mean ± sd; groups many n>100, medium, few n<20; differences in mean accuracy per class with 95 %
intervals of the paired bootstrap over families. Nothing tuned but the epoch (validation split),
except for the classifiers: four settings each, tried on validation data (seed 0).

    adapter, sampling            mean/class        many      medium         few  against the first
    released code, by class      38.1 ± 0.3  52.6 ± 0.9  31.6 ± 0.5  35.7 ± 0.7
    released code, by image      36.0 ± 0.6  58.9 ± 7.0  27.8 ± 0.6  29.2 ± 8.6  -2.1 (-3.5 to -0.7)
    poster's ReLU, by class      38.1 ± 0.1  51.4 ± 0.4  30.9 ± 0.4  37.7 ± 0.5  -0.0 (-0.7 to 0.7)
    poster's ReLU, by image      36.6 ± 0.2  54.3 ± 3.1  27.4 ± 0.3  35.6 ± 2.3  -1.5 (-3.0 to 0.1)

    share of the adapter         mean/class        many      medium         few  against the first
    0.1                          37.7 ± 0.2  50.3 ± 0.3  29.6 ± 0.2  39.2 ± 0.2
    0.2                          38.1 ± 0.3  52.6 ± 0.9  31.6 ± 0.5  35.7 ± 0.7  +0.4 (-0.6 to 1.4)
    0.3                          38.3 ± 0.3  55.0 ± 1.7  32.3 ± 0.8  33.5 ± 2.4  +0.7 (-0.7 to 2.1)
    0.5                          37.8 ± 0.5  55.9 ± 0.5  32.6 ± 0.6  30.6 ± 1.2  +0.1 (-1.7 to 1.9)
    0.7                          37.0 ± 0.4  57.2 ± 1.2  31.7 ± 0.8  28.1 ± 1.0  -0.7 (-2.9 to 1.4)
    1.0                          37.3 ± 0.4  54.1 ± 1.3  32.4 ± 0.6  30.6 ± 0.8  -0.4 (-2.2 to 1.4)

    tuned                        mean/class        many      medium         few  against zero-shot
    zero-shot                    35.9 ± 0.0  45.3 ± 0.0  27.7 ± 0.0  40.2 ± 0.0
    ballad                       38.4 ± 0.3  56.4 ± 1.0  32.9 ± 0.1  31.8 ± 1.5  +2.5 (0.2 to 5.0)
    ballad-linear                37.7 ± 0.3  52.5 ± 1.1  32.0 ± 0.5  33.9 ± 0.7  +1.8 (-0.2 to 3.6)
    ballad-cosine                38.5 ± 0.1  54.1 ± 0.9  33.1 ± 0.5  33.4 ± 1.2  +2.6 (0.4 to 4.8)

By group, tuned `ballad` adds to zero-shot +11.1 (7.0 to 15.2) of many, +5.2 (2.0 to 8.6) of medium
and -8.5 (-13.5 to -3.4) of few: with an encoder that phase A has not tuned, the adapter buys the
head with the tail, and sampling by image loses 1.5 to 2 points more. It took 7 minutes of one CPU
core that others used too.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ltcache.cache import Cache
from ltcache.report import WRITERS
from pipelines.comparisons import cache_of, compared, difference_table, options

SHARES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)


def main() -> None:
    """Run the comparisons and print their tables."""
    parser = options(__doc__, "ballad-results")
    parser.set_defaults(trials=4)
    chosen = parser.parse_args()
    for table in tables(cache_of(chosen), chosen):
        print(table)


def tables(cache: Cache, chosen: argparse.Namespace) -> Iterator[str]:
    """Yield the tables of the comparisons, as Markdown."""
    plain = argparse.Namespace(**{**vars(chosen), "trials": 1})
    variants = compared(
        cache,
        ["ballad"],
        plain,
        chosen.out / "variants",
        grid={"head.variant": ("code", "poster"), "sampler": ("class_aware", "instance")},
    )
    shares = compared(cache, ["ballad"], plain, chosen.out / "shares", grid={"head.ratio": SHARES})
    heads = compared(
        cache,
        ["zero-shot", "ballad", "ballad-linear", "ballad-cosine"],
        chosen,
        chosen.out / "classifiers",
        baseline="zero-shot",
    )
    for found in (variants, shares, heads):
        yield WRITERS["md"](found.comparison, "test")
    first = variants.comparison["entries"][0]["name"]
    others = [entry["name"] for entry in variants.comparison["entries"][1:]]
    yield difference_table(cache, variants, [(first, name) for name in others])[0]
    adapted = ("ballad", "ballad-linear", "ballad-cosine")
    yield "\n" + difference_table(cache, heads, [("zero-shot", name) for name in adapted])[0]


if __name__ == "__main__":
    main()
