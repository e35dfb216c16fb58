"""Fits on nested parts of the training images, which tell what more of them would buy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ltcache.ablate.ablation import require_scored
from ltcache.ablate.parallel import run_groups
from ltcache.ablate.plan import settings_of
from ltcache.ablate.resident import resident
from ltcache.ablate.runs import (
    AblationJob,
    AblationProgress,
    FitRun,
    RunOptions,
    run_all,
    setting_key,
)
from ltcache.cache import Cache, labelled_split, open_cache
from ltcache.errors import FitError, UsageError
from ltcache.methods import Method
from ltcache.metrics import GroupScheme
from ltcache.records import require_local, write_json
from ltcache.report import GROWTH, GroupGrowth, MoreImages

PARTS = (0.25, 0.35, 0.5, 0.7, 1.0)
_UNUSED = "unused"  # the split of rows that take no part


def more_images(
    cache: Cache | str | Path,
    method: str | Method,
    out: str | Path,
    *,
    shares: Sequence[float] = PARTS,
    seeds: int = 5,
    split: str = "test",
    overrides: Mapping[str, Any] | None = None,
    progress: Callable[[AblationProgress], None] | None = None,
) -> MoreImages:
    """Fit a method on nested parts of the training images; write and return its errors by group.

    A seed draws the order of the images of each class; a part is the first of them, at least one of
    a class. What is there of an earlier call is taken.

    Args:
        cache: a cache or its directory. method: a method or its name.
        out: gets ``runs`` and ``more-images.json``.
        shares: of the images of each class, 0..1, at least 3. seeds: how many (0, 1, ...).
        split: that is scored. overrides: dotted key -> value. progress: called after each run.

    Raises:
        UsageError: the shares are too few or none, or the split cannot be scored.
        FitError: a run failed.
    """
    parts, opened, folder = sorted(set(shares)), open_cache(cache), Path(require_local(out))
    if len(parts) < 3 or not 0 < parts[0] <= parts[-1] <= 1:
        raise UsageError(
            f"--rows {','.join(f'{share:g}' for share in shares)}: at least 3 different shares of "
            "the training images, above 0 and at most 1"
        )
    require_scored(opened, split)
    setting = settings_of([method], None, ("none",), overrides)[0][0]
    setting = replace(setting, method=setting.method.on_views(opened.views))
    per_class = np.empty((seeds, len(parts), len(opened.classes)))
    images = np.empty(per_class.shape)
    alone = partial(run_groups, workers=1)
    for seed in range(seeds):
        for number, share in enumerate(parts):
            part = resident(part_of_train(opened, share, seed))
            options = RunOptions(folds={"share": share})
            key = setting_key(part, setting, options)
            job = AblationJob(setting, seed, folder / "runs" / f"{key}-{share:g}" / f"seed-{seed}")
            (outcome,) = run_all([job], FitRun(part, options), alone, progress, f"{share:.0%}")
            if outcome.reason is not None:
                raise FitError(f"{job.name} on {share:.0%} of the images: {outcome.reason}")
            found = outcome.value.metrics[split].per_class
            per_class[seed, number] = np.array(found, dtype=float)
            images[seed, number] = part.class_counts("train")
    grown = _groups(opened, images.mean(axis=0), 1 - per_class)
    result = MoreImages(setting.name, split, seeds, tuple(parts), tuple(grown))
    write_json(folder / GROWTH, result.to_dict())
    return result


def part_of_train(cache: Cache, share: float, seed: int) -> Cache:
    """Return the cache with a part of the labelled training rows of each class, nested by share."""
    rows = np.asarray(cache.rows("train"))[labelled_split(cache, "train").positions]
    labels, rng = cache.manifest.labels()[rows], np.random.default_rng(seed)
    kept: list[np.ndarray] = []
    for label in np.unique(labels):
        order = rng.permutation(rows[labels == label])
        kept.append(order[: max(1, round(share * len(order)))])
    table = cache.manifest.rows
    split = np.array(table["split"].to_pylist(), dtype=object)
    split[np.setdiff1d(rows, np.concatenate(kept))] = _UNUSED
    place = table.column_names.index("split")
    return cache.with_rows(table.set_column(place, "split", pa.array(split, pa.string())))


def _groups(cache: Cache, images: np.ndarray, errors: np.ndarray) -> list[GroupGrowth]:
    """Return all classes, then each group by all images that has classes.

    Args:
        images: of each class in each part, (P, C). errors: (S, P, C); NaN: of no class scored.
    """
    groups = GroupScheme.from_dict(cache.manifest.groups).assign(cache.class_counts())
    found = []
    for name in ("all", "many", "medium", "few"):
        chosen = ~np.isnan(errors[0, 0]) & ((groups == name) | (name == "all"))
        if chosen.any():
            means = errors[:, :, chosen].mean(axis=2)
            sizes = images[:, chosen].mean(axis=1)
            lists = tuple(tuple(each) for each in means.tolist())
            found.append(GroupGrowth(name, int(chosen.sum()), tuple(sizes.tolist()), lists))
    return found
