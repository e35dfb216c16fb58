"""What the pipelines on cached features share: their options, a cache, paired differences."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ltcache.ablate import Ablation, ablate
from ltcache.ablate.tune import Grid
from ltcache.cache import Cache, open_cache
from ltcache.cli.progress import AblationBar
from ltcache.extract import extract
from ltcache.methods import Method
from ltcache.metrics import GroupScheme, paired_bootstrap, percent
from ltcache.report import ScoredRows
from ltcache.runs import LabelledLogits, open_run
from ltcache.tables import markdown_table

TRIALS = 6
FOLDS = 3
STATISTICS = ("mean_per_class", "many", "medium", "few")


def options(description: str | None, out: str) -> argparse.ArgumentParser:
    """Return the options of a pipeline: where, on what, how many seeds and trials."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--source", default="emoji_lt", help="a manifest, where there is no cache")
    parser.add_argument("--cache", type=Path, help="a finished cache; none: SOURCE is extracted")
    parser.add_argument("--model", default="embedded", help="any model of ltcache extract")
    parser.add_argument("--pretrained", help="weights of --model, as for ltcache extract")
    parser.add_argument(
        "--views", help="of the cache that is extracted, besides center: rrc:2,cmo:2"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=TRIALS, help="settings tried on validation")
    parser.add_argument("--workers", type=int, help="processes; one per core by default")
    parser.add_argument(
        "--together", action="store_true", help="runs of one architecture as one problem: faster"
    )
    return parser


def cache_of(chosen: argparse.Namespace, fields: Sequence[str] | None = None) -> Cache:
    """Return the cache that is named, or extract one into OUT/cache."""
    if chosen.cache is not None:
        return open_cache(chosen.cache)
    encoder = {"model": chosen.model, "pretrained": chosen.pretrained}
    views = chosen.views.split(",") if chosen.views else ()
    extract(chosen.source, chosen.out / "cache", fields=fields, views=views, **encoder)
    return open_cache(chosen.out / "cache")


def compared(
    cache: Cache,
    methods: Sequence[str | Method],
    chosen: argparse.Namespace,
    out: Path,
    tried: Grid | None = None,
    **more: Any,
) -> Ablation:
    """Tune every method with the same number of trials on validation data, fit it, compare.

    Where there are no validation images, or they lack classes of training, trials are judged by
    three folds of the training images.

    Args:
        tried: what the trials try; None: what each method has of the default search space.
        more: for :func:`ltcache.ablate.ablate`.
    """
    if tried is not None and chosen.trials > 1:
        more["grid"] = tried
    if chosen.trials > 1 and _lacks_classes(cache):
        more["tune_folds"] = FOLDS
    with AblationBar() as bar:
        return ablate(
            cache,
            methods,
            out,
            seeds=chosen.seeds,
            tune=chosen.trials > 1,
            trials=chosen.trials,
            workers=chosen.workers,
            together=chosen.together or None,
            progress=bar,
            **more,
        )


def _lacks_classes(cache: Cache) -> bool:
    """Return whether a class of training has no validation image."""
    if "val" not in cache.splits:
        return True
    return bool(((cache.class_counts("train") > 0) & (cache.class_counts("val") == 0)).any())


def right(cache: Cache, out: Path, entry: Mapping[str, Any]) -> np.ndarray:
    """Return which test rows each run of a line classifies rightly, (seeds, N)."""
    runs = [open_run(out / path) for path in entry["runs"]]
    return np.stack([LabelledLogits.of(run, cache, "test").right for run in runs])


def difference(
    cache: Cache, before: np.ndarray, after: np.ndarray, statistic: str
) -> dict[str, Any]:
    """Return the paired bootstrap over units of the test rows, mean over seeds."""
    rows = ScoredRows.of(cache, "test")
    groups = GroupScheme.from_dict(cache.manifest.groups).assign(cache.class_counts())
    found = paired_bootstrap(before, after, rows.labels, rows.units, statistic, groups=groups)
    return found.to_dict()


def difference_table(
    cache: Cache, found: Ablation, pairs: Sequence[tuple[str, str]]
) -> tuple[str, list[dict[str, Any]]]:
    """Return what the second of each pair of lines adds to the first, as Markdown and as data; of a
    group without classes nothing, None."""
    entries = {entry["name"]: entry for entry in found.comparison["entries"]}
    rights = {n: right(cache, found.out, entries[n]) for pair in pairs for n in pair}
    records: list[dict[str, Any]] = [
        {
            "before": before,
            "after": after,
            **{
                statistic: difference(cache, rights[before], rights[after], statistic)
                if entries[after]["scores"]["test"][statistic] is not None
                else None
                for statistic in STATISTICS
            },
        }
        for before, after in pairs
    ]
    rows = [
        [record["after"], record["before"], *(shown(record[s]) for s in STATISTICS)]
        for record in records
    ]
    return markdown_table(["test, points", "against", *STATISTICS], rows), records


def over_seeds(values: Sequence[float]) -> dict[str, float | None]:
    """Return mean and standard deviation of a score over seeds; of one seed no deviation, None."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": sd}


def shown(found: Mapping[str, Any] | None) -> str:
    """Return a difference with its 95 % interval, in points."""
    if found is None:
        return "-"
    low, high = percent(found["low"]), percent(found["high"])
    return f"{100 * found['difference']:+.1f} ({low} to {high})"
