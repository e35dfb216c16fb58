"""Tuning a method: trials of a grid trained as one problem against one after the other.

    OMP_NUM_THREADS=2 python -m tests.benchmarks.bench_tune [--cache CACHE] [--methods ce,lift-lp]
        [--trials 9] [--folds 3] [--repeats 3] [--clock wall|cpu]

On a cache, or else on Emoji-LT with the embedded encoder, which is extracted first. Both ways
choose by the same folds of the training images and run in turn; a ratio is the median over rounds
of one by one / together. Their scores are compared, so that a faster way that chooses otherwise is
seen.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median

import torch

from ltcache.ablate.tune import Tuning, tune
from ltcache.cache import Cache, open_cache
from ltcache.extract import extract
from tests.benchmarks.timing import CLOCKS, Ratio, compare

METHODS = "ce,logit-adjustment,lift-lp,ldam-drw,crt,ride"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--trials", type=int, default=9)
    parser.add_argument("--folds", type=int, default=3, help="0: validation images choose")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-tune-") as folder:
        place = chosen.cache or extract("emoji_lt", Path(folder) / "cache").path
        cache = open_cache(place)
        print(f"{len(cache.labels('train'))} training images, {chosen.trials} trials, "
              f"{chosen.folds or 'no'} folds, {torch.get_num_threads()} threads")  # fmt: skip
        for name in chosen.methods.split(","):
            print(line(cache, name, chosen), flush=True)


def line(cache: Cache, name: str, chosen: argparse.Namespace) -> str:
    """Return what both ways take for a method."""
    found: dict[bool, Tuning] = {}

    def measured(together: bool) -> None:
        found[together] = tune(
            cache, name, trials=chosen.trials, tune_folds=chosen.folds or None, together=together
        )

    ways = {"one by one": partial(measured, False), "together": partial(measured, True)}
    times = compare(ways, chosen.repeats, chosen.clock)
    apart = max(
        abs(a.scores["val_nll"] - b.scores["val_nll"])
        for a, b in zip(found[False].tried, found[True].tried, strict=True)
        if not (a.failed or b.failed)
    )
    seconds = [median(times[way]) for way in ways]
    ratio = Ratio.of(times["one by one"], times["together"])
    same = "same choice" if found[False].chosen == found[True].chosen else "ANOTHER CHOICE"
    return (f"{name:<18} one by one {seconds[0]:6.1f} s, together {seconds[1]:6.1f} s, ratio "
            f"{ratio}; {same}, val NLL within {apart:.1g}")  # fmt: skip


if __name__ == "__main__":
    main()
