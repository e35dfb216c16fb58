"""What does BALLAD's second phase add to a frozen encoder, and what of it does the work?

    python -m pipelines.ballad_cached --out ballad-results

Phase B on features of an encoder that phase A has not tuned: the adapter of the released code and
that of the poster (with a ReLU), the share of the adapter in the mixture, class-aware against plain
sampling, and the classifiers that may stand behind it; zero-shot is the same without any adapter.
"""

from __future__ import annotations

import argparse

from ltcache.report import WRITERS
from pipelines.comparisons import cache_of, compared, difference_table, options

SHARES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)


def main() -> None:
    """Run the comparisons and print their tables."""
    parser = options(__doc__, "ballad-results")
    parser.set_defaults(trials=4)
    chosen = parser.parse_args()
    cache = cache_of(chosen)
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
        print(WRITERS["md"](found.comparison, "test"))
    first = variants.comparison["entries"][0]["name"]
    others = [entry["name"] for entry in variants.comparison["entries"][1:]]
    print(difference_table(cache, variants, [(first, name) for name in others])[0])
    adapted = ("ballad", "ballad-linear", "ballad-cosine")
    print(difference_table(cache, heads, [("zero-shot", name) for name in adapted])[0])


if __name__ == "__main__":
    main()
