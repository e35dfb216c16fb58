"""TACKLE on cached features: do images picked from an unlabelled pool help rare classes?

    python -m pipelines.tackle --out tackle-results

Extracts Emoji-LT and its pool (553 drawings of families that training leaves out, among 3,199
icons), picks images of the pool for the few-shot classes by p_k with tau = 1 / logit_scale of the
encoder, trains on them beside the labelled images, and mixes the result with zero-shot. Lines:
without web images, with them, with the guards off, with no labelled image of the classes that get
web images, and with the pool's true labels (the ceiling). Validation data choose how many are
picked, from which p_k on and what a pick weighs (fits at their defaults, seeds 0 to 2); the fit's
settings for the first line, which the others take over, so that they differ in images alone (seed
0; `--tune-each`: each line its own); and the weights of the ensembles. The truth of the pool scores
and builds the ceiling, and chooses nothing.

Result, lift-lp, embedded encoder, test split, mean ± sd of five seeds in %, 95 % over 280 families:

                             mean/class              many        medium      few
    zero-shot                35.9 (32.5 to 39.5)     45.3        27.7        40.2 (33 to 47)
    without web images       41.5 ± 0.3 (38 to 45)   57.5 ± 2.5  37.9 ± 1.1  33.7 ± 2.6 (27 to 41)
      with zero-shot         41.4 ± 0.7 (38 to 45)   55.8 ± 2.2  35.6 ± 1.1  37.9 ± 2.2 (31 to 45)
    with web images, 168     42.3 ± 0.6 (39 to 46)   57.1 ± 1.9  36.6 ± 0.8  38.3 ± 2.1 (31 to 46)
      with zero-shot         42.2 ± 0.7 (38 to 46)   56.1 ± 1.4  36.5 ± 1.4  39.2 ± 1.1 (32 to 47)
    guards off, 170          42.4 ± 0.6 (39 to 46)   58.0 ± 1.4  36.8 ± 0.5  37.6 ± 2.0 (30 to 46)
    web images only, 163     40.8 ± 0.7 (37 to 44)   56.7 ± 3.4  37.3 ± 1.2  32.9 ± 2.4 (27 to 39)
    true labels, 274         45.1 ± 0.2 (41 to 49)   58.2 ± 1.4  36.1 ± 0.4  47.5 ± 1.3 (40 to 55)

Web images add 4.6 points in the few-shot classes (95 % 1.0 to 8.4, paired), take 1.3 from medium
ones (0.1 to 2.3) and add 0.7 in all (-0.6 to 2.1); true labels would add 13.8 (8.8 to 19.1) and
3.6 (1.7 to 5.4). 163 picks without any labelled image do about as well as the 190 labelled images
(-0.8, -6.0 to 4.3). Guards neither help nor harm here (0.7 in few, -0.5 to 1.9): the pool holds no
image of the test split. Zero-shot adds 4.2 (1.8 to 6.9) in few without web images and 0.9 (-0.6 to
2.4) with them, and nothing in the mean. With `--tune-each` web images add 3.2 in few (-0.5 to 6.9)
and 0.4 in the mean (-0.9 to 1.7). Of 18 retrievals, 10 picks per class with p_k calibrated to a
precision of 0.8 on training images, weighing p_k, were best on validation data (48.8 mean/class);
the others lie between 47.3 and 48.7 and more picks are no better.

Precision of picks, mean over the 17 classes, in %; a class has 16 right images on average:

                                  at 10: picks, right   at 50: picks, right   of guards' number
    random                        10.0   0.4            50.0   0.4
    raw cosine                    10.0  68.8            50.0  23.6            69.7, 56.8
    argmax zero-shot              10.0  70.6            39.8  32.9            72.0, 57.9
    p_k                           10.0  70.6            50.0  23.9            71.4, 57.6
    p_k, guards                    9.6  70.2            19.6  56.7            70.2, 56.7
    p_k, guards, to precision 0.9  8.6  75.0            12.8  69.4
    upper bound                   10.0  99.4            50.0  32.2

What guards gain is that they stop: below the floor on p_k the list holds little that is right. At
the same number of picks they keep p_k's order and lose 2 and 3 right images to the guard against
leaks, such as notes of other currencies that look like the test split's dollar note by the same
vendor (with near duplicates at 1 % false alarms 66.4 and 54.1 are right, at the default of 0.3 %
70.2 and 56.7, at 0.1 % 71.4 and 57.1). The floor of 0.5 refuses 52 of the 89 right candidates that
are not taken at 10, and 86 of 89 at 50.

Six minutes of one core, and two more to extract both sets.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ltcache.ablate.tune import grid_settings, search_space
from ltcache.cache import Cache, open_cache
from ltcache.ensemble import ZeroShot, ensemble, mixed_logits
from ltcache.errors import FitError
from ltcache.extract import extract
from ltcache.fit import ExtraRows, fit_adapter
from ltcache.methods import method_by_name
from ltcache.metrics import GroupScheme, percent
from ltcache.report.tables import mean_and_spread
from ltcache.retrieval import RetrievalSettings, extra_rows, retrieve_tail
from ltcache.retrieval.selection import tail_classes
from ltcache.runs import Run
from ltcache.tables import markdown_table
from ltcache.zero_shot import cached_logits
from pipelines import pool_precision
from pipelines.comparisons import STATISTICS, cache_of, difference, options, over_seeds, shown

PER_CLASS = (10, 20, None)
THRESHOLDS: tuple[dict[str, Any], ...] = ({}, {"precision": 0.8}, {"precision": 0.9})
WEIGHTS: tuple[float | str, ...] = (1.0, "p")
"""What validation data choose among: picks per class (None: up to the median class), the least p_k
(0.5, or calibrated on training images to a precision), and what a pick weighs."""

GUARDS: dict[str, dict[str, Any]] = {
    "p_k, guards": {},
    "p_k, guards, to precision 0.9": {"precision": 0.9},
}
WITHOUT, WITH, OFF = "without web images", "with web images", "with web images, guards off"
ONLY, CEILING = "web images only for rare classes", "true labels of the pool (ceiling)"
ENSEMBLE = "with zero-shot"
SPACE = "probabilities"
SEEDS_OF_A_TRIAL = 3


@dataclass(frozen=True, eq=False)
class Row:
    """One line of the table: what trains.

    Args:
        cache: labelled images. extra: those of the pool.
    """

    cache: Cache
    extra: ExtraRows | None = None


def main() -> None:
    """Retrieve, fit, ensemble, and print the tables."""
    parser = options(__doc__, "tackle-results")
    parser.add_argument("--method", default="lift-lp", help="what is fitted in every row")
    parser.add_argument("--pool", type=Path, help="a finished cache; else POOL_SOURCE is extracted")
    parser.add_argument("--pool-source", default="emoji_lt_pool", help="images without labels")
    parser.add_argument("--tune-each", action="store_true", help="each line for itself")
    parser.add_argument("--truth", type=Path, help="path,label_or_empty of the pool, for scoring")
    chosen = parser.parse_args()
    cache, pool = cache_of(chosen), pool_of(chosen)
    print("\n\n".join(found(cache, pool, pool_precision.read_truth(pool, chosen.truth), chosen)))


def found(
    cache: Cache, pool: Cache, truth: np.ndarray | None, chosen: argparse.Namespace
) -> list[str]:
    """Write OUT/results.json and return its tables as Markdown."""
    result: dict[str, Any] = {"precision": []}
    if truth is not None:
        guards = {name: RetrievalSettings(**chosen) for name, chosen in GUARDS.items()}
        result["precision"] = [
            pool_precision.measure(cache, pool, truth, guards, most) for most in (10, 50)
        ]
    result |= measure(cache, pool, truth, chosen)
    (chosen.out / "results.json").write_text(json.dumps(result, indent=1))
    return tables(result)


def pool_of(chosen: argparse.Namespace) -> Cache:
    """Return the cache of the pool that is named, or extract one into OUT/pool."""
    if chosen.pool is not None:
        return open_cache(chosen.pool)
    extract(chosen.pool_source, chosen.out / "pool", model=chosen.model)
    return open_cache(chosen.out / "pool")


def measure(
    cache: Cache, pool: Cache, truth: np.ndarray | None, chosen: argparse.Namespace
) -> dict[str, Any]:
    """Return every number of the accuracy tables, as fractions."""
    tried = list(retrievals(cache, pool, chosen))
    best = max(tried, key=lambda trial: trial["val_mean_per_class"])
    lines = rows(cache, pool, truth, RetrievalSettings(**best["settings"]), best["weight"])
    right = {"zero-shot": right_of(cache, [zero_shot_logits(cache)])}
    settings: dict[str, Any] = {}
    first = tuned(lines[WITHOUT], chosen)
    for name, row in lines.items():
        try:
            settings[name] = tuned(row, chosen) if chosen.tune_each else first
            runs = fitted(row, settings[name], chosen, name)
        except FitError as error:  # with no labelled image, a class may be left without any
            settings[name] = f"not fitted: {error}"
            continue
        right[name] = right_of(cache, [test_logits(run, cache) for run in runs])
        if name in (WITHOUT, WITH):
            mixed = [with_zero_shot(run, cache) for run in runs]
            right[f"{name}, {ENSEMBLE}"] = right_of(cache, [logits for logits, _ in mixed])
            settings[f"{name}, {ENSEMBLE}"] = [weights for _, weights in mixed]
    return {
        "method": chosen.method,
        "seeds": chosen.seeds,
        "tried on val": tried,
        "retrieval": best,
        "images": {n: 0 if r.extra is None else len(r.extra.labels) for n, r in lines.items()},
        "chosen on val": settings,
        "scores": {name: scores(cache, values) for name, values in right.items()},
        "differences": differences(cache, right),
    }


def retrievals(cache: Cache, pool: Cache, chosen: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield what each setting of the retrieval gives on validation data, fits at their defaults.

    What is known from an earlier run into the same directory is taken from there. A precision that
    no threshold reaches on training images is left out.
    """
    file = chosen.out / "retrievals.json"
    known = json.loads(file.read_text()) if file.is_file() else {}
    seeds = range(min(chosen.seeds, SEEDS_OF_A_TRIAL))
    for per_class, threshold in itertools.product(PER_CLASS, THRESHOLDS):
        settings = {"per_class": per_class, **threshold}
        try:
            found = retrieve_tail(cache, pool, settings=RetrievalSettings(**settings))
        except FitError as error:
            if not threshold:
                raise
            print(f"left out {settings}: {error}", file=sys.stderr)
            continue
        for weight in WEIGHTS:
            key = f"{found.key} {chosen.method} {weight} {len(seeds)}"
            if key not in known:
                extra = extra_rows(found, weight)
                runs = [fit_adapter(cache, chosen.method, seed=n, extra=extra) for n in seeds]
                known[key] = {
                    "settings": settings,
                    "weight": weight,
                    "images": len(extra.labels),
                    "val_mean_per_class": _mean(runs, "mean_per_class"),
                    "val_few": _mean(runs, "few"),
                }
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(known, indent=1))
                print(f"tried {settings}, weight {weight}", file=sys.stderr)
            yield known[key]


def _mean(runs: Sequence[Run], score: str) -> float:
    return float(np.mean([getattr(run.metrics["val"], score) for run in runs]))


def rows(
    cache: Cache,
    pool: Cache,
    truth: np.ndarray | None,
    settings: RetrievalSettings,
    weight: float | str,
) -> dict[str, Row]:
    """Return what trains in each line of the table."""
    counts = cache.class_counts()
    labels = tail_classes(counts, GroupScheme.from_dict(cache.manifest.groups))
    rest = without_images(cache, labels)
    fill = {} if settings.per_class else {"up_to": int(np.median(counts[counts > 0]))}
    # without labelled images nothing can be calibrated to a precision
    only = replace(settings, labels=tuple(labels.tolist()), precision=None, **fill)
    found = {
        WITH: retrieve_tail(cache, pool, settings=settings),
        OFF: retrieve_tail(cache, pool, settings=replace(settings, precision=None, off=("all",))),
        ONLY: retrieve_tail(rest, pool, settings=only),
    }
    result = {WITHOUT: Row(cache)}
    for name, retrieved in found.items():
        result[name] = Row(rest if name == ONLY else cache, extra_rows(retrieved, weight))
    if truth is not None:
        result[CEILING] = Row(cache, true_rows(cache, pool, truth, labels))
    return result


def without_images(cache: Cache, labels: np.ndarray) -> Cache:
    """Return the cache as if training images of some classes had been skipped."""
    table = cache.manifest.rows
    skipped = np.zeros(len(table), bool)
    skipped[cache.rows("train")[np.isin(cache.labels("train"), labels)]] = True
    status = np.where(skipped, "skipped", table["status"].to_numpy(zero_copy_only=False))
    column = pa.array(status.tolist(), pa.string())
    place = table.column_names.index("status")
    return cache.with_rows(table.set_column(place, "status", column))


def true_rows(cache: Cache, pool: Cache, truth: np.ndarray, labels: np.ndarray) -> ExtraRows:
    """Return the pool's images of some classes with their true labels."""
    chosen = np.flatnonzero(np.isin(truth, labels))
    features = {
        name: np.concatenate([values for _, values in pool.feature_blocks(chosen, 4096, name)])
        for name in pool.field_dims()
    }
    weights = np.ones(len(chosen), np.float32)
    return ExtraRows(
        features, truth[chosen], weights, cache.identities("center"), {"labels": "true"}
    )


def tuned(row: Row, chosen: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of the fit that validation data choose with seed 0."""
    tried = []
    for settings in grid_settings(search_space(method_by_name(chosen.method)), chosen.trials, 0):
        run = fit_adapter(row.cache, chosen.method, overrides=settings, extra=row.extra)
        tried.append((run.metrics["val"].mean_per_class, -run.metrics["val"].nll, settings))
    return max(tried, key=lambda trial: trial[:2])[2]


def fitted(
    row: Row, settings: Mapping[str, Any], chosen: argparse.Namespace, name: str
) -> list[Run]:
    """Return a line's runs, one for each seed, which are written into OUT/runs."""
    tuning = {"chosen": dict(settings), "tuned_on": "val", "trials": chosen.trials}
    out = chosen.out / "runs" / name.replace(" ", "-").replace(",", "")
    print(f"fitting {name}", file=sys.stderr)
    return [
        fit_adapter(
            row.cache,
            chosen.method,
            out / f"seed-{seed}",
            seed=seed,
            overrides=settings,
            extra=row.extra,
            tuning=tuning,
            overwrite=True,
        )
        for seed in range(chosen.seeds)
    ]


def with_zero_shot(run: Run, cache: Cache) -> tuple[np.ndarray, dict[str, float]]:
    """Return test scores of a run mixed with zero-shot, and the weights validation data chose."""
    found = ensemble([run, ZeroShot(cache)], caches=[cache], space=SPACE)
    logits = [test_logits(run, cache), zero_shot_logits(cache)]
    return mixed_logits(logits, list(found.weights.values()), SPACE), found.weights


def test_logits(run: Run, cache: Cache) -> np.ndarray:
    """Return a run's logits on the test split, (n, C)."""
    view = run.method.feature.eval_view
    return run.logits(cache.features("test", run.record.field, view))


def zero_shot_logits(cache: Cache) -> np.ndarray:
    """Return the logits of zero-shot on the test split, (n, C)."""
    return cached_logits(cache, "test", cache.prompts())


def right_of(cache: Cache, logits: Sequence[np.ndarray]) -> np.ndarray:
    """Return which test rows each seed classifies rightly, (seeds, n)."""
    return np.stack([values.argmax(axis=1) for values in logits]) == cache.labels("test")


def scores(cache: Cache, right: np.ndarray, *more: str) -> dict[str, Any]:
    """Return statistic -> its interval over units, and mean and sd over seeds; ``more`` are further
    statistics, the first ones."""
    wrong = np.zeros_like(right)
    return {
        name: difference(cache, wrong, right, name) | over_seeds(_each(cache, right, name))
        for name in (*more, *statistics(cache))
    }


def statistics(cache: Cache) -> list[str]:
    """Return the columns that have classes."""
    groups = set(GroupScheme.from_dict(cache.manifest.groups).assign(cache.class_counts()))
    return [name for name in STATISTICS if name in {"mean_per_class", *groups}]


def _each(cache: Cache, right: np.ndarray, statistic: str) -> list[float]:
    wrong = np.zeros_like(right[:1])
    return [difference(cache, wrong, one[None], statistic)["difference"] for one in right]


def differences(cache: Cache, right: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Return what each line adds to what it is compared to, over units, mean over seeds."""
    pairs = [(WITHOUT, name) for name in (WITH, OFF, ONLY, CEILING) if name in right]
    pairs += [(OFF, WITH), (WITHOUT, f"{WITHOUT}, {ENSEMBLE}"), (WITH, f"{WITH}, {ENSEMBLE}")]
    pairs += [(f"{WITHOUT}, {ENSEMBLE}", f"{WITH}, {ENSEMBLE}")]
    return {
        f"{after} - {before}": {
            name: difference(cache, right[before], right[after], name) for name in statistics(cache)
        }
        for before, after in pairs
    }


def tables(result: Mapping[str, Any]) -> list[str]:
    """Return the tables and sentences as Markdown."""
    lines = [
        [name, str(result["images"].get(name, "")), *(_score(row.get(s)) for s in STATISTICS)]
        for name, row in result["scores"].items()
    ]
    added = [
        [name, *(shown(row.get(s)) for s in STATISTICS)]
        for name, row in result["differences"].items()
    ]
    tried = [
        [
            str(trial["settings"]["per_class"] or "to the median"),
            str(trial["settings"].get("precision", "p_k >= 0.5")),
            str(trial["weight"]),
            str(trial["images"]),
            percent(trial["val_mean_per_class"]),
            percent(trial["val_few"]),
        ]
        for trial in result["tried on val"]
    ]
    failed = [
        f"{name}: {why}" for name, why in result["chosen on val"].items() if isinstance(why, str)
    ]
    return [
        *(pool_precision.table(found) for found in result["precision"]),
        markdown_table(["test, % (95 % over units)", "pool images", *STATISTICS], lines),
        markdown_table(["test, points (95 % over units)", *STATISTICS], added),
        markdown_table(
            ["per class", "threshold", "weight", "pool images", "val mean_per_class", "val few"],
            tried,
        ),
        *failed,
    ]


def _score(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    low, high = percent(found["low"]), percent(found["high"])
    return f"{mean_and_spread(found)} ({low} to {high})"


if __name__ == "__main__":
    main()
