"""A picture of training, retrieved and prompt embeddings in two dimensions, by t-SNE.

Van der Maaten and Hinton, "Visualizing data using t-SNE", JMLR 2008; scikit-learn's. Unit rows,
so that distances order pairs as cosines do. Texts and images of a dual encoder lie apart (Liang et
al., "Mind the gap", NeurIPS 2022), so each kind is taken about its own mean; otherwise the picture
would show little more than that gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ltcache.cache import Cache
from ltcache.errors import UsageError
from ltcache.records import committed, one_line, require_local
from ltcache.retrieval.result import RetrievalResult
from ltcache.retrieval.review.gallery import require_same_cache
from ltcache.retrieval.scoring.pool import CachedPool
from ltcache.retrieval.scoring.queries import unit

TSNE_PICTURE = "tsne.png"
CLASSES, IMAGES = 20, 600
"""Classes in the picture, at most: those with most images taken; images of either kind."""

_PERPLEXITY, _LEAST = 30.0, 5
_KINDS = {"training": ("o", 14), "retrieved": ("^", 26), "prompt": ("*", 170)}


@one_line
@dataclass(frozen=True, eq=False)
class TsnePoints:
    """What is drawn: unit embeddings (n, D), their labels (n,) and kinds (n,)."""

    values: np.ndarray
    labels: np.ndarray
    kinds: np.ndarray

    def of(self, kind: str) -> np.ndarray:
        """Return places of one kind."""
        return np.flatnonzero(self.kinds == kind)


def collect(result: RetrievalResult, cache: Cache, seed: int = 0) -> TsnePoints:
    """Return the embeddings of a bounded sample: training and retrieved images, and prompts.

    Raises:
        IdentityError: the result was made for another cache (status 4).
        UsageError: fewer than five images and prompts.
    """
    require_same_cache(result, cache)
    rng = np.random.default_rng(seed)
    view, prompts = result.record.settings.view, result.record.settings.prompts
    counts = result.counts()
    labels = np.array(sorted(counts, key=lambda label: (-counts[label], label))[:CLASSES], np.int64)
    accepted = result.accepted
    taken = _sample(np.flatnonzero(np.isin(accepted["label"].to_numpy(), labels)), rng)
    taken_rows = accepted["pool_row"].to_numpy()[taken]
    train = cache.rows("train") if "train" in cache.splits else np.zeros(0, np.int64)
    of_row = cache.manifest.rows["label"].to_numpy()
    train = _sample(train[np.isin(of_row[train], labels)], rng)
    parts = {
        "training": (CachedPool(cache, view).unit(train), of_row[train]),
        "retrieved": (_mean_crop(result, taken_rows), accepted["label"].to_numpy()[taken]),
        "prompt": (unit(cache.prompts(prompts).mean[labels].astype(np.float64)), labels),
    }
    values = [rows for rows, _ in parts.values()]
    points = TsnePoints(
        np.concatenate(values),
        np.concatenate([own for _, own in parts.values()]),
        np.concatenate([np.full(len(rows), kind) for kind, (rows, _) in parts.items()]),
    )
    if len(points.labels) < _LEAST:
        raise UsageError(f"{len(points.labels)} images and prompts are too few for a picture")
    return points


def place(points: TsnePoints, seed: int = 0) -> np.ndarray:
    """Return float (n, 2)."""
    text = points.kinds == "prompt"
    values = points.values.copy()
    for kind in (text, ~text):
        if kind.sum() > 1:
            values[kind] -= values[kind].mean(axis=0)
    return tsne_coordinates(values, seed)


def tsne_coordinates(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return float (n, 2): rows (n, D), five at least, by their directions."""
    from sklearn.manifold import TSNE

    perplexity = min(_PERPLEXITY, (len(values) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed)
    return np.asarray(tsne.fit_transform(unit(values).astype(np.float32)))


def write_tsne(
    result: RetrievalResult, cache: Cache, out: str | Path | None = None, seed: int = 0
) -> Path:
    """Write the picture, ``tsne.png`` in the result's directory by default; return its path.

    Raises:
        IdentityError: the result was made for another cache (status 4).
        UsageError: too little to draw, or no place for it.
    """
    if out is None and result.path is None:
        raise UsageError("the result was not written: say where the picture shall be")
    path = require_local(out) if out is not None else Path(result.path or "") / TSNE_PICTURE
    points = collect(result, cache, seed)
    figure = _figure(result, cache, points, place(points, seed), seed)
    with committed(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    return path


def _figure(
    result: RetrievalResult, cache: Cache, points: TsnePoints, where: np.ndarray, seed: int
) -> Any:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    labels = np.unique(points.labels)
    colours = matplotlib.colormaps["tab20"](np.arange(len(labels)) % 20)
    for kind, (marker, size) in _KINDS.items():
        mine = points.of(kind)
        own = colours[np.searchsorted(labels, points.labels[mine])]
        edge = "none" if kind == "training" else "black"
        axes.scatter(
            where[mine, 0],
            where[mine, 1],
            s=size,
            c=own,
            marker=marker,
            edgecolors=edge,
            linewidths=0.5,
        )
        axes.scatter([], [], s=size, c="grey", marker=marker, edgecolors=edge,
                     label=f"{kind} ({len(mine)})")  # fmt: skip
    for label, colour in zip(labels, colours, strict=True):
        name = cache.classes.names[label].replace("$", r"\$")
        axes.scatter([], [], s=40, color=colour, marker="s", label=f"{label} {name}")
    axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set_xticks([])
    axes.set_yticks([])
    title = f"t-SNE, seed {seed}; images and prompts about their own means"
    if len(labels) < len(result.classes):
        title += f"; the {len(labels)} of {len(result.classes)} classes with most images taken"
    axes.set_title(title, fontsize="small")
    return figure


def _sample(places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if len(places) <= IMAGES:
        return places
    return np.sort(rng.choice(places, IMAGES, replace=False))


def _mean_crop(result: RetrievalResult, rows: np.ndarray) -> np.ndarray:
    """Return float64 (n, D): unit embeddings of pool rows."""
    values = result.features_of(rows).astype(np.float64)
    return unit(unit(values).mean(axis=1)) if len(values) else values.reshape(0, values.shape[-1])
