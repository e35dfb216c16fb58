"""What do the embedded encoder's frozen features give on Emoji-LT, and does the prior matter?

    python -m pipelines.emoji_lt --out emoji-lt-results

Extracts Emoji-LT, then reports on its test split: zero-shot; a nearest-class-mean head on training
and test rows (how much of what the head sees is memory); cross entropy, class-balanced cross
entropy and logit adjustment with equal initialisation, epochs and number of trials (three learning
rates each, chosen by mean accuracy per class on the validation split), three seeds; the paired
bootstrap over emoji families of logit adjustment against cross entropy in the few-shot group; and
every result by vendor. The headline takes the vendors that have no kin in the encoder's training.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ltcache.cache import Cache, open_cache
from ltcache.extract import extract
from ltcache.fit import fit_adapter
from ltcache.metrics import GroupScheme, evaluate_logits, paired_bootstrap, percent
from ltcache.report import COLUMNS
from ltcache.report.tables import mean_and_spread
from ltcache.runs import Run
from ltcache.tables import markdown_table
from ltcache.zero_shot import zero_shot
from pipelines.comparisons import over_seeds

METHODS = ("ce", "crt", "logit-adjustment")
LEARNING_RATES = (3e-4, 1e-3, 3e-3)
NO_KIN = ("twemoji", "emojione", "fxemoji")
"""Vendors of whose art no relative is in the encoder's training."""


def main() -> None:
    """Run the experiment and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("emoji-lt-results"))
    parser.add_argument("--model", default="embedded", help="any model of ltcache extract")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    extract("emoji_lt", options.out / "cache", model=options.model)
    cache = open_cache(options.out / "cache")
    result = measure(cache, range(options.seeds))
    (options.out / "results.json").write_text(json.dumps(result, indent=1))
    print("\n\n".join(tables(result)))


def measure(cache: Cache, seeds: Sequence[int]) -> dict[str, Any]:
    """Return every number of the tables, as fractions."""
    logits = {"zero-shot": [zero_shot(cache).logits]}
    chosen = {}
    for method in METHODS:
        runs, chosen[method] = tuned(cache, method, seeds)
        logits[method] = [test_logits(run, cache) for run in runs]
    train, test = nearest_class_mean(cache, "train"), nearest_class_mean(cache, "test")
    return {
        "scores": {name: scores(cache, values) for name, values in logits.items()},
        "by_vendor": {name: by_vendor(cache, values) for name, values in logits.items()},
        "nearest_class_mean": {"train": train, "test": test, "gap": train - test},
        "few": few_shot_difference(cache, logits["ce"], logits["logit-adjustment"]),
        "learning_rates": chosen,
        "seeds": list(seeds),
    }


def tuned(cache: Cache, method: str, seeds: Sequence[int]) -> tuple[list[Run], float]:
    """Return a method's runs at the learning rate that is best on validation data, and the rate."""
    trials = {
        rate: [
            fit_adapter(
                cache, method, seed=seed, overrides={"optimisation.lr": rate, "init": "class_mean"}
            )
            for seed in seeds
        ]
        for rate in LEARNING_RATES
    }
    best = max(
        trials,
        key=lambda rate: np.mean([run.metrics["val"].mean_per_class for run in trials[rate]]),
    )
    return trials[best], best


def test_logits(run: Run, cache: Cache) -> np.ndarray:
    """Return a run's logits on the test split, (n, C)."""
    return run.logits(cache.features("test", run.record.field))


def scores(cache: Cache, logits: Sequence[np.ndarray]) -> dict[str, Any]:
    """Return mean and sd over seeds of every column, and the first seed's interval."""
    metrics = [
        evaluate_logits(
            values,
            cache.labels("test"),
            cache.class_counts(),
            groups=cache.manifest.groups,
            units=cache.column("unit", "test"),
        )
        for values in logits
    ]
    columns = {name: [getattr(m, name) for m in metrics] for name in COLUMNS}
    return {
        "columns": {name: over_seeds(values) for name, values in columns.items()},
        "interval": list(metrics[0].intervals["mean_per_class"]),
    }


def by_vendor(cache: Cache, logits: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the mean accuracy per class on each vendor's drawings, and over those without kin."""
    labels, vendors = cache.labels("test"), cache.column("vendor", "test")
    assert vendors is not None
    right = np.mean([values.argmax(axis=1) == labels for values in logits], axis=0)
    result = {
        str(vendor): class_mean(right[vendors == vendor], labels[vendors == vendor])
        for vendor in sorted(set(vendors))
    }
    result["without kin"] = float(np.mean([result[vendor] for vendor in NO_KIN]))
    return result


def class_mean(right: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean over the classes that occur of the share of right answers."""
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))


def nearest_class_mean(cache: Cache, split: str) -> float:
    """Return the mean accuracy per class of the nearest training class mean, by cosine."""
    field = "pooled" if "pooled" in cache.field_dims() else "embedding"
    train, labels = unit(cache.features("train", field)[:, 0]), cache.labels("train")
    means = unit(np.stack([train[labels == c].mean(axis=0) for c in range(len(cache.classes))]))
    rows, truth = unit(cache.features(split, field)[:, 0]), cache.labels(split)
    return class_mean((rows @ means.T).argmax(axis=1) == truth, truth)


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows of unit length."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def few_shot_difference(
    cache: Cache, before: Sequence[np.ndarray], after: Sequence[np.ndarray]
) -> dict[str, Any]:
    """Return the paired bootstrap over families of the few-shot accuracy, mean over seeds."""
    labels = cache.labels("test")
    correct = [np.stack([v.argmax(axis=1) == labels for v in side]) for side in (before, after)]
    return paired_bootstrap(
        *correct,
        labels,
        cache.column("unit", "test"),
        "few",
        groups=GroupScheme.from_dict(cache.manifest.groups).assign(cache.class_counts()),
    ).to_dict()


def tables(result: Mapping[str, Any]) -> list[str]:
    """Return the experiment's tables and sentences as Markdown."""
    heading = ["test, %", *COLUMNS.values(), "95 % of mean/class"]
    rows = [
        [name, *map(mean_and_spread, row["columns"].values()), _range(row["interval"])]
        for name, row in result["scores"].items()
    ]
    vendors = list(next(iter(result["by_vendor"].values())))
    by = [
        [name, *(percent(row[vendor]) for vendor in vendors)]
        for name, row in result["by_vendor"].items()
    ]
    ncm, few = result["nearest_class_mean"], result["few"]
    return [
        markdown_table(heading, rows),
        markdown_table(["mean/class, %", *vendors], by),
        f"nearest class mean: train {percent(ncm['train'])}, test {percent(ncm['test'])}, gap "
        f"{percent(ncm['gap'])} points",
        f"few-shot, logit adjustment - cross entropy: {percent(few['difference'])} points, "
        f"95 % {_range((few['low'], few['high']))} (paired bootstrap over {few['units']} "
        f"families, {len(result['seeds'])} seeds, p = {few['p']:.4f})",
        f"learning rates chosen on validation data: {result['learning_rates']}",
    ]


def _range(interval: Sequence[float]) -> str:
    return f"{percent(interval[0])}–{percent(interval[1])}"


if __name__ == "__main__":
    main()
