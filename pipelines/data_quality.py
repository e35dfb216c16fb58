"""Are mislabelled training images found, and is it foretold what more images would give?

    python -m pipelines.data_quality --out data-quality-results

Label errors: 5 % of the training labels are changed by seed to another class, all classes alike;
`ablate --folds 5` fits each method on the changed labels, and `report --label-errors` lists what
looks wrong. Precision: how many of the list were changed; recall: how many of the changed are in
the list; each beside that of a list of the same length by chance. Labels that were wrong before
count as right ones, so that precision is a lower bound.

Measured on Emoji-LT with the embedded encoder (196 of 3922 labels changed, seeds 0 to 2, ten
minutes on one core), mean ± sd in %:

    list of   images  precision  by chance  of its first 98       recall  by chance
    ce          1534  12.5 ± 0.4       5.0      65.6 ± 6.6    97.8 ± 1.1       39.1
    gda          814  19.6 ± 1.9       5.0     66.3 ± 28.4    80.4 ± 6.9       20.7

The list is long because the encoder is weak; its order is what helps: of the first 98 images two
thirds are wrong, thirteen times as many as by chance.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ltcache.ablate import ablate, label_errors
from ltcache.cache import Cache
from ltcache.metrics import GroupScheme, percent
from ltcache.records import write_json
from ltcache.report import markdown_table
from pipelines.comparisons import cache_of, options

METHODS = ("ce", "gda")
FLIPPED = 0.05
FOLDS = 5


def main() -> None:
    """Measure and print the tables."""
    chosen = options(__doc__, "data-quality-results").parse_args()
    cache = cache_of(chosen)
    flips = [
        flipped_and_found(cache, method, seed, chosen)
        for method in METHODS
        for seed in range(chosen.seeds)
    ]
    write_json(chosen.out / "data-quality.json", {"label_errors": flips})
    print(errors_table(flips))


def with_flipped(cache: Cache, seed: int) -> tuple[Cache, np.ndarray]:
    """Return the cache with wrong labels of some training images, and the rows of these."""
    rng, table = np.random.default_rng(seed), cache.manifest.rows
    train = np.asarray(cache.rows("train"))
    flipped = np.sort(rng.choice(train, round(FLIPPED * len(train)), replace=False))
    labels, classes = cache.manifest.labels().copy(), len(cache.classes)
    labels[flipped] = (labels[flipped] + rng.integers(1, classes, len(flipped))) % classes
    place = table.column_names.index("label")
    column = pa.array(labels, table.schema.field("label").type)
    return cache.with_rows(table.set_column(place, "label", column)), flipped


def flipped_and_found(
    cache: Cache, method: str, seed: int, chosen: argparse.Namespace
) -> dict[str, Any]:
    """Return how many of a seed's wrong labels are found by the runs of a method."""
    noisy, flipped = with_flipped(cache, seed)
    out = chosen.out / "folds" / f"{method}-{seed}"
    ablate(noisy, [method], out, seeds=[seed], folds=FOLDS, workers=chosen.workers)
    found = label_errors(out, noisy)
    listed = np.array([error.row for error in found.errors], dtype=np.int64)
    right, rows = np.isin(listed, flipped), len(cache.rows("train"))
    true = cache.manifest.labels()[flipped]
    groups = GroupScheme.from_dict(cache.manifest.groups).assign(cache.class_counts())[true]
    hit = np.isin(flipped, listed)
    return {
        "method": method,
        "seed": seed,
        "listed": len(listed),
        "flipped": len(flipped),
        "precision": float(right.mean()),
        "precision_by_chance": len(flipped) / rows,
        "precision_of_first": float(right[: len(flipped) // 2].mean()),
        "recall": float(hit.mean()),
        "recall_by_chance": len(listed) / rows,
        **{f"recall_{g}": float(hit[groups == g].mean()) for g in ("many", "medium", "few")},
    }


def errors_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return mean and spread over seeds for each method, as Markdown."""
    columns = {
        "listed": "listed",
        "precision": "precision",
        "precision_by_chance": "by chance",
        "precision_of_first": "of the first half",
        "recall": "recall",
        "recall_by_chance": "by chance",
        "recall_many": "many",
        "recall_medium": "medium",
        "recall_few": "few",
    }
    rows = []
    for method in dict.fromkeys(record["method"] for record in records):
        mine = [record for record in records if record["method"] == method]
        rows.append([method, *(_spread([r[name] for r in mine]) for name in columns)])
    return markdown_table(["labels, %", *columns.values()], rows)


def _spread(values: Sequence[float]) -> str:
    if isinstance(values[0], int):
        return f"{np.mean(values):.0f}"
    spread = float(np.std(values, ddof=len(values) > 1))
    return f"{percent(float(np.mean(values)))} ± {percent(spread)}"


if __name__ == "__main__":
    main()
