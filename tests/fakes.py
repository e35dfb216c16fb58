"""A cache that never touches a disk: synthetic long-tailed Gaussian features, the same methods."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Generator, Tensor

from ltcache.cache import PromptEmbeddings, folder_of
from ltcache.cache.shared_images import SharedContent, compared_splits, shared_content
from ltcache.errors import CacheError
from ltcache.fit import ExtraRows
from ltcache.fit.composites import CompositeRows
from ltcache.manifest import ClassList, Manifest
from ltcache.metrics import GroupScheme
from ltcache.records import digest
from ltcache.runs import RunCost, RunRecord


def long_tail_counts(classes: int, most: int, least: int) -> np.ndarray:
    """Return an exponential profile of class counts, (C,)."""
    return np.round(most * (least / most) ** (np.arange(classes) / (classes - 1))).astype(int)


class FakeCache:
    """What a fit reads of a cache.

    Args:
        counts: training rows per class. per_class: rows per class of each other split.
        dim: D of the joint space; pooled features have twice as many dimensions.
        noise: deviation within a class, for unit distances between class means.
        pooled: whether the encoder has pooled features and a projection.
        image_only: whether the encoder has no text tower: pooled features alone, no class texts.
        splits: which splits there are besides train.
        views: other views -> deviation of each of their four crops from ``center``.
    """

    changed_rows = None  # `files` is of the rows that there are
    imported = False

    def __init__(
        self,
        counts: np.ndarray,
        *,
        per_class: int = 20,
        dim: int = 16,
        noise: float = 0.3,
        pooled: bool = True,
        image_only: bool = False,
        splits: tuple[str, ...] = ("val", "test"),
        crops: int = 1,
        unit: int | None = None,
        views: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.path = Path("fake-cache")
        classes = len(counts)
        means = rng.normal(size=(classes, dim)) / np.sqrt(dim)
        sizes = {"train": counts} | {split: np.full(classes, per_class) for split in splits}
        label = np.concatenate([np.repeat(np.arange(classes), n) for n in sizes.values()])
        split = np.concatenate([np.full(n.sum(), name) for name, n in sizes.items()])
        rows = len(label)
        embedding = means[label][:, None] + noise * rng.normal(size=(rows, crops, dim)) / np.sqrt(
            dim
        )
        self._features = {"embedding": embedding.astype(np.float32)}
        self.projection: np.ndarray | None = None
        self.projection_bias: np.ndarray | None = None
        if pooled:
            basis = np.linalg.qr(rng.normal(size=(2 * dim, dim)))[0].astype(np.float32)
            self.projection = basis
            self._features["pooled"] = self._features["embedding"] @ basis.T
        columns: dict[str, Any] = {
            "row_id": np.arange(rows),
            "key": [f"k{i}" for i in range(rows)],
            "uri": [f"{i}.png" for i in range(rows)],
            "label": label.astype(np.int64),
            "split": split.tolist(),
        }
        if unit is not None:
            place = np.concatenate([np.arange(n.sum()) for n in sizes.values()])
            columns["unit"] = [f"{s}{p // unit}" for s, p in zip(split, place, strict=True)]
        self.classes = ClassList(tuple(f"class {c}" for c in range(classes)), (None,) * classes)
        self.manifest = Manifest("fake", pa.table(columns), self.classes)
        self.encoder: dict[str, Any] = {"towers": {"image": "i0", "text": "t0"}, "dims": {"d": dim}}
        self.numerics: dict[str, Any] = {"precision": "fp32"}
        self.provenance: dict[str, Any] = {"model": "fake", "pretrained": None, "activation": None}
        self.logit_scale: float | None = 20.0
        self.logit_bias: float | None = None
        self.views = ("center", *(views or {}))
        self._text = (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)
        self.prompt_names: tuple[str, ...] = ("default",)
        if image_only:
            self._features = {"pooled": self._features["embedding"]}
            self.projection, self.logit_scale, self.prompt_names = None, None, ()
            del self.encoder["towers"]["text"]
        self._crops = {
            (view, name): center
            + deviation * rng.normal(size=(rows, 4, center.shape[2])).astype(np.float32)
            for view, deviation in (views or {}).items()
            for name, center in self._features.items()
        }

    @property
    def files(self) -> dict[str, dict[str, str]]:
        """Name -> digest of the manifest and of the features."""
        rows = self.manifest.rows.to_pylist()
        features = b"".join(values.tobytes() for values in self._features.values())
        content = {"sha256": hashlib.sha256(features).hexdigest()}
        shards = {f"views/{folder_of(view)}/00000.h5": content for view in self.views}
        return {"manifest-0.parquet": {"sha256": digest(rows)}, **shards}

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return self.manifest.splits

    @property
    def shared_content(self) -> tuple[SharedContent, ...]:
        """Images that stand in two splits."""
        return shared_content(self.manifest.rows, compared_splits(self.splits))

    def field_dims(self, view: str = "center") -> dict[str, int]:
        """Return field -> dimension."""
        return {name: values.shape[2] for name, values in self._features.items()}

    def crops(self, view: str = "center") -> int:
        """Return the crops of each image."""
        return int(self._of(view, next(iter(self._features))).shape[1])

    def rows(self, split: str | None = None) -> np.ndarray:
        """Return the row numbers of a split."""
        column = np.array(self.manifest.rows["split"].to_pylist())
        return np.flatnonzero(column == split) if split else np.arange(len(column))

    def labels(self, split: str | None = None) -> np.ndarray:
        """Return the labels of a split."""
        return self.manifest.rows["label"].to_numpy()[self.rows(split)]

    def class_counts(self, split: str = "train") -> np.ndarray:
        """Return the rows of each class."""
        labels = self.labels(split)
        return np.bincount(labels[labels >= 0], minlength=len(self.classes))

    def column(self, name: str, split: str | None = None) -> np.ndarray | None:
        """Return a column of the manifest, or None."""
        if name not in self.manifest.rows.column_names:
            return None
        return np.array(self.manifest.rows[name].to_pylist())[self.rows(split)]

    def with_rows(self, rows: pa.Table) -> FakeCache:
        """Return the cache with another list of the same images."""
        found = copy.copy(self)
        found.manifest = replace(self.manifest, rows=rows)
        return found

    def features(
        self, split: str | None = None, field: str = "embedding", view: str = "center"
    ) -> np.ndarray:
        """Return (n, v, D)."""
        return self._of(view, field)[self.rows(split)]

    def how_to_add(self, view: str) -> str:
        return f"add it with --views {view}"

    def _of(self, view: str, field: str) -> np.ndarray:
        """Return the features of all rows, (N, v, D)."""
        if view not in self.views:
            raise CacheError(f"no view {view!r}")
        return self._features[field] if view == "center" else self._crops[view, field]

    def prompts(self, name: str | None = None) -> PromptEmbeddings:
        """Return the only set of class texts: the true class directions."""
        if (name or "default") not in self.prompt_names:
            raise CacheError(f"no prompts {name!r}")
        identity = {
            "text_tower": self.encoder["towers"]["text"],
            "classes": digest(self.classes.identity()),
            "sentences": hashlib.sha256(self._text.tobytes()).hexdigest(),
        }
        texts = [[f"a {name}"] for name in self.classes.names]
        count = np.ones(len(texts), np.int64)
        return PromptEmbeddings("default", texts, self._text[:, None], count, self._text, identity)

    def identities(
        self, view: str = "center", prompts: PromptEmbeddings | None = None
    ) -> dict[str, dict[str, Any]]:
        """Return kind -> identity."""
        result = {
            "encoder": self.encoder,
            "classes": self.classes.identity(),
            "view": {"name": view, **({"seed": 0} if view.startswith("rrc") else {})},
            "numerics": self.numerics,
        }
        return result if prompts is None else result | {"prompts": dict(prompts.identity)}


def fake_composites(features: Tensor, labels: Tensor, crops: int = 2) -> CompositeRows:
    """Return composites of rows as if the features of a box mixed by its area.

    Partners are the first row of a class, and classes come equally often.
    """
    generator = Generator().manual_seed(8)
    first = torch.tensor([int((labels == label).nonzero()[0]) for label in labels.unique()])
    shape = (len(features), crops)
    partners = first[torch.randint(len(first), shape, generator=generator)]
    shares = torch.rand(shape, generator=generator)
    own = shares[..., None]
    return CompositeRows(own * features[:, None] + (1 - own) * features[partners], partners, shares)


def extra_of(
    cache: FakeCache, count: int = 40, weight: float = 1.0, *, label: int = 7, **changes: Any
) -> ExtraRows:
    """Return test images of a class, the rarest of eight unless told, as extra rows of it."""
    rows = np.flatnonzero(cache.labels("test") == label)[:count]
    features = {name: cache.features("test", name)[rows] for name in cache.field_dims()}
    values: dict[str, Any] = {
        "features": features,
        "labels": np.full(len(rows), label),
        "weights": np.full(len(rows), weight, np.float32),
        "identities": cache.identities("center"),
        "record": {"retrieval": "r0"},
    }
    return ExtraRows(**{**values, **changes})


def run_record(**fields: Any) -> RunRecord:
    """Return the record of a run that nobody has fitted, with some fields as they are to be."""
    plain: dict[str, Any] = {
        "seed": 0, "identities": {}, "prompts": None, "field": "embedding", "dim": 4,
        "class_counts": (3, 2), "groups": GroupScheme(), "logit_scale": None, "stale": (),
        "tuned_on": {"epoch": "val"}, "choices": ({},), "splits": {"test": 40},
        "cost": RunCost(1.0, 0.0, 0.0, 0.5),
    }  # fmt: skip
    return RunRecord(**(plain | fields))
