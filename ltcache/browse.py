"""The images of a cache as a page: by class, by split, by what a run predicts, and on a map.

The map is t-SNE of the features (:func:`ltcache.retrieval.tsne_coordinates`). Both the images on
the page and the points on the map are bounded, and the page says of how many they are.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from ltcache.cache import Cache, has_labels, labelled_split
from ltcache.errors import UsageError, did_you_mean
from ltcache.evaluate import split_predictions
from ltcache.pages import (
    PageSummary,
    PictureCard,
    PictureListing,
    cache_pictures,
    write_pictures_page,
)
from ltcache.records import counted
from ltcache.retrieval import tsne_coordinates
from ltcache.runs import Run

MAPPED = 1000
"""Points of a map, at most."""
_LEAST = 5
_UNLABELLED = "unlabelled"

Facts = dict[str, str | float]


def browse_cache(
    cache: Cache,
    out: str | Path,
    *,
    run: Run | None = None,
    split: str | None = None,
    classes: Collection[str] = (),
    most: int = 1000,
    seed: int = 0,
    source: str | Path | None = None,
) -> PageSummary:
    """Write the page, which is one file.

    Args:
        run: whose predictions of labelled rows are shown. split: of the rows; None: all.
        classes: names of the rows' classes; empty: all, and rows without a label.
        most: images on the page, at most: a random choice that takes of each class alike.
        seed: of the choice and of the map.
        source: what the cache was extracted from; None: where the cache says that its images are.

    Raises:
        UsageError: no such class, no row, no labelled row for the run to predict, or an address
            in place of a file.
        CacheError: no such split.
        IdentityError: the run was fitted on other features (status 4).
        ManifestError: the source cannot be read.
    """
    rows = _wanted(cache, split, classes)
    shown = _alike(rows, cache.manifest.rows["label"].to_numpy()[rows], most, seed)
    facts = _facts(cache, shown)
    about = [f"{len(shown)} of {len(rows)} images that were asked for, of {cache.manifest.name}."]
    if failed := _without_features(cache, split, classes):
        about.append(f"{failed} more have no features, so that they are not here.")
    if run is not None:
        about.append(_add_predictions(facts, run, cache, shown))
    points, told = _map(cache, shown, seed)
    predicted = [] if run is None else ["prediction", "right"]
    listing = PictureListing(
        title=f"Images of {cache.manifest.name}",
        about=[*about, told],
        facets=["class", "split", *predicted],
        sorts=["class", "split", *([] if run is None else ["prediction", "probability"])],
        captions=["class", *predicted[:1]],
    )
    keys = cache.manifest.rows["key"].take(shown).to_pylist()
    files = cache_pictures(cache, shown, source)
    cards = [
        PictureCard(file, key, facts[row], points.get(row))
        for file, key, row in zip(files, keys, shown.tolist(), strict=True)
    ]
    return write_pictures_page(out, listing, cards)


def _wanted(cache: Cache, split: str | None, classes: Collection[str]) -> np.ndarray:
    """Return the rows that were asked for."""
    rows, names = cache.rows(split), cache.classes.names
    for name in classes:
        if name not in names:
            hint = did_you_mean(name, names, lead="; ")
            raise UsageError(f"{cache.path} has no class {name!r}{hint}")
    rows = rows[_of_classes(cache, cache.labels(split), classes)]
    if not len(rows):
        raise UsageError(f"{cache.path} has no image of {', '.join(classes) or 'any class'} there")
    return rows


def _without_features(cache: Cache, split: str | None, classes: Collection[str]) -> int:
    """Return how many of the rows that were asked for have failed."""
    rows = cache.manifest.indices(split)
    rows = rows[_of_classes(cache, cache.manifest.labels(split), classes)]
    return len(np.setdiff1d(rows, cache.rows(split)))


def _of_classes(cache: Cache, labels: np.ndarray, classes: Collection[str]) -> np.ndarray:
    """Return bool (n,): which labels are of classes; of no class named, all."""
    if not classes:
        return np.ones(len(labels), bool)
    own = [label for label, name in enumerate(cache.classes.names) if name in classes]
    return np.isin(labels, own)


def _alike(rows: np.ndarray, labels: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Return at most so many rows, ascending: the first of each class, the second of each..."""
    mixed = np.random.default_rng(seed).permutation(len(rows))
    order = mixed[np.argsort(labels[mixed], kind="stable")]
    sizes = np.bincount(labels + 1)  # -1: unlabelled
    turns = np.concatenate([np.arange(size) for size in sizes])
    return np.asarray(np.sort(rows[order[np.argsort(turns, kind="stable")[:most]]]))


def _facts(cache: Cache, rows: np.ndarray) -> dict[int, Facts]:
    table, names = cache.manifest.rows, cache.classes.names
    labels, splits = (table[name].take(rows).to_pylist() for name in ("label", "split"))
    return {
        row: {"class": names[label] if label >= 0 else _UNLABELLED, "split": split}
        for row, label, split in zip(rows.tolist(), labels, splits, strict=True)
    }


def _add_predictions(facts: dict[int, Facts], run: Run, cache: Cache, rows: np.ndarray) -> str:
    """Add what a run predicts for the labelled rows; return a sentence for the page."""
    none: Facts = {"prediction": "none", "probability": 0.0, "right": "unknown"}
    for own in facts.values():
        own |= none
    done = 0
    for split in dict.fromkeys(str(own["split"]) for own in facts.values()):
        if not has_labels(cache, split):
            continue
        found = split_predictions(run, cache, split, top=1)
        numbers = cache.rows(split)[labelled_split(cache, split).positions]
        columns = (
            found[name].to_pylist() for name in ("label", "labels", "names", "probabilities")
        )
        for row, label, best, name, share in zip(numbers.tolist(), *columns, strict=True):
            if row in facts:
                right = "right" if best[0] == label else "wrong"
                facts[row] |= {"prediction": name[0], "probability": share[0], "right": right}
                done += 1
    if not done:
        raise UsageError(
            f"{cache.path}: no image there has a label, and predictions of a run are shown for "
            "labelled ones: leave --run out, or classify the images with ltcache predict"
        )
    name = run.path.name if run.path is not None else run.method.name
    left = f"; {len(facts) - done} have no label, and none" if done < len(facts) else ""
    return f"Predictions are of the run {name} for {done} images{left}."


def _map(cache: Cache, rows: np.ndarray, seed: int) -> tuple[dict[int, tuple[float, float]], str]:
    """Return row -> where it is on the map, and a sentence for the page."""
    view = "center" if "center" in cache.views else cache.views[0]
    fields = [name for name in ("embedding", "pooled") if name in cache.field_dims(view)]
    if len(rows) < _LEAST:
        return {}, f"There is no map: {counted(len(rows), 'image')} cannot be arranged."
    if not fields:
        return {}, "There is no map: the cache has neither embeddings nor pooled features."
    field = fields[0]
    some = rows
    if len(rows) > MAPPED:
        some = np.sort(np.random.default_rng(seed).choice(rows, MAPPED, replace=False))
    values = cache.row_features(some, field, view).astype(np.float64)
    values /= np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), np.finfo(float).tiny)
    means = values.mean(axis=1)
    where = tsne_coordinates(means - means.mean(axis=0), seed)
    points = {row: (float(x), float(y)) for row, (x, y) in zip(some.tolist(), where, strict=True)}
    told = f"The map is t-SNE of {field} features, seed {seed}, of {len(some)} images"
    return points, told + ("." if len(some) == len(rows) else " chosen at random.")
