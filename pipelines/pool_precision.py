"""How many images that a retrieval picks are right, where the pool's true classes are known.

The truth scores; nothing here lets it choose. Icons of the packaged pool have no class: one that
shows what a class is about (an icon named mail-32) counts as wrong, so that the figures are low.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ltcache.cache import Cache
from ltcache.errors import FitError, UsageError
from ltcache.manifest import packaged_manifests
from ltcache.metrics import percent
from ltcache.retrieval import RetrievalResult, RetrievalSettings, retrieve_tail
from ltcache.retrieval.scoring.cached_queries import make_queries
from ltcache.retrieval.scoring.pool import CachedPool
from ltcache.retrieval.scoring.pool_scores import score_pool
from ltcache.tables import markdown_table

Lists = dict[int, np.ndarray]
"""Class -> rows of the pool, best first."""


def read_truth(pool: Cache, file: Path | None) -> np.ndarray | None:
    """Return int64 (n,): the true class of every row of a pool, -1 for none of them.

    Args:
        file: ``path,label_or_empty``; None: the one packaged with the pool, if there is one.

    Raises:
        UsageError: an image of the pool is not in it.
    """
    path = file or packaged_manifests() / pool.manifest.name / "truth.csv"
    if file is None and not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as stream:
        known = {row["path"]: int(row["label_or_empty"] or -1) for row in csv.DictReader(stream)}
    uris = pool.manifest.rows["uri"].to_pylist()
    if unknown := [uri for uri in uris if uri not in known]:
        raise UsageError(f"{path}: no class of {unknown[0]} ({len(unknown)} images are missing)")
    return np.array([known[uri] for uri in uris], np.int64)


def measure(
    cache: Cache,
    pool: Cache,
    truth: np.ndarray,
    settings: Mapping[str, RetrievalSettings],
    most: int,
) -> dict[str, Any]:
    """Return precision of at most ``most`` picks per class, by every way of picking.

    Args:
        settings: name -> guards to try; the first is what the others are compared to. Of the
            others, those that cannot be had here are left out, with the reason.

    Raises:
        FitError: the first one cannot be had.
    """
    first = next(iter(settings))
    retrieved, unreached = {}, {}
    for name, chosen in settings.items():
        try:
            retrieved[name] = retrieve_tail(cache, pool, settings=replace(chosen, per_class=most))
        except FitError as error:  # no threshold reaches the precision that is asked for
            if name == first:
                raise
            unreached[name] = str(error)
    guarded = {name: picks_of(found) for name, found in retrieved.items()}
    wanted = {label: len(rows) for label, rows in guarded[first].items()}
    labels = wanted.keys()
    ways = {**rankings(cache, pool, np.array(list(labels)), most), **guarded}
    there = {label: int((truth == label).sum()) for label in labels}
    share = float(np.mean([there[label] / len(truth) for label in labels]))
    return {
        "most": most,
        "available": there,
        "upper bound": float(np.mean([min(most, n) / most for n in there.values()])),
        "random": share,
        "ways": {name: _scores(lists, truth, most, wanted) for name, lists in ways.items()},
        "refused although right": {name: refused(r, truth) for name, r in retrieved.items()},
        "left out": unreached,
    }


def rankings(cache: Cache, pool: Cache, labels: np.ndarray, most: int) -> dict[str, Lists]:
    """Return the lists of raw cosine, argmax zero-shot and p_k, with no guard at all."""
    images, queries = CachedPool(pool), make_queries(cache, RetrievalSettings())
    cosines = images.unit(images.rows) @ queries.rows[0].T
    predicted = cosines.argmax(axis=1)
    best = score_pool(images, queries, labels, most)
    order = {int(c): np.argsort(-cosines[:, c], kind="stable") for c in labels}
    return {
        "raw cosine": {c: images.rows[rows[:most]] for c, rows in order.items()},
        "argmax zero-shot": {
            c: images.rows[rows[predicted[rows] == c][:most]] for c, rows in order.items()
        },
        "p_k": {int(c): best.of(c).rows[:most] for c in labels},
    }


def picks_of(found: RetrievalResult) -> Lists:
    """Return what a retrieval took, best first."""
    taken = found.accepted
    labels, rows = taken["label"].to_numpy(), taken["pool_row"].to_numpy()
    return {entry.label: rows[labels == entry.label] for entry in found.classes}


def refused(found: RetrievalResult, truth: np.ndarray) -> dict[str, int]:
    """Return reason -> candidates of the right class that were not taken for it."""
    rows = found.table.select(["pool_row", "label", "reason"]).to_pylist()
    right = (row for row in rows if truth[row["pool_row"]] == row["label"])
    return dict(sorted(Counter(row["reason"] for row in right if row["reason"]).items()))


def _scores(
    lists: Lists, truth: np.ndarray, most: int, wanted: Mapping[int, int]
) -> dict[str, float]:
    """Return means over classes; a class without picks has no right one."""
    right = {label: truth[rows] == label for label, rows in lists.items()}
    first = {label: hits[: wanted[label]] for label, hits in right.items()}
    return {
        "picks": float(np.mean([len(hits) for hits in right.values()])),
        "of all asked for": float(np.mean([hits.sum() / most for hits in right.values()])),
        "of picks": float(np.mean([hits.mean() if len(hits) else 0 for hits in right.values()])),
        "of as many": float(np.mean([hits.mean() if len(hits) else 0 for hits in first.values()])),
    }


def table(found: Mapping[str, Any]) -> str:
    """Return one measurement as Markdown."""
    most, share = found["most"], percent(found["random"])
    heading = [
        f"right at {most}, %",
        "picks",
        f"of {most}",
        "of picks",
        "of as many as guards take",
    ]
    rows: list[Sequence[str]] = [["random", str(most), share, share, share]]
    for name, way in found["ways"].items():
        numbers = (percent(way[key]) for key in ("of all asked for", "of picks", "of as many"))
        rows.append([name, f"{way['picks']:.1f}", *numbers])
    rows.append(["upper bound", str(most), percent(found["upper bound"]), "-", "-"])
    left_out = [f"\n{name}: {why}" for name, why in found["left out"].items()]
    return markdown_table(heading, rows) + "".join(left_out)
