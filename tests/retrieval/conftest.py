"""A labelled long-tailed cache and a pool, of synthetic features that import in an instant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ltcache.cache import Cache, open_cache
from ltcache.manifest import ClassList, Manifest
from ltcache.retrieval.scoring.queries import unit
from ltcache.transfer import import_features

DIM, CLASSES = 24, 6
COUNTS = (60, 40, 25, 12, 6, 4)


def write_cache(
    out: Path,
    values: np.ndarray,
    columns: dict[str, list[object]],
    *,
    text: np.ndarray | None = None,
    encoder_of: Path | None = None,
    dtype: type[np.floating] = np.float16,
    shard_size: int = 50,
) -> Cache:
    """Write features (n, D) as a cache, with rows as a manifest's columns say."""
    rows = len(values)
    labels = columns.pop("label", [-1] * rows)
    splits = columns.pop("split", ["pool"] * rows)
    table = pa.table(
        {
            "row_id": np.arange(rows),
            "key": [f"{out.name}{n}" for n in range(rows)],
            "uri": [f"{n}.png" for n in range(rows)],
            "label": pa.array(labels, pa.int64()),
            "split": splits,
            **columns,
        }
    )
    names = tuple(f"class {c}" for c in range(CLASSES)) if text is not None else ()
    manifest = Manifest(out.name, table, ClassList(names, (None,) * len(names)))
    source = out.parent / f"{out.name}.npz"
    np.savez(source, features=values.astype(dtype))
    import_features(
        source,
        out,
        manifest=manifest,
        text=text,
        encoder_of=encoder_of,
        logit_scale=None if encoder_of else 20.0,
        shard_size=shard_size,
    )
    return open_cache(out)


class World:
    """Class directions, and images around them."""

    def __init__(self, root: Path, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.root = root
        self.text = unit(self.rng.normal(size=(CLASSES, DIM)))

    def images(self, labels: np.ndarray, noise: float = 0.35) -> np.ndarray:
        """Return embeddings (n, D) of any length around class directions."""
        noisy = self.text[labels] + noise * self.rng.normal(size=(len(labels), DIM)) / np.sqrt(DIM)
        return unit(noisy) * self.rng.uniform(2, 5, (len(labels), 1))

    def labelled(self, counts: tuple[int, ...] = COUNTS, name: str = "cache") -> Cache:
        """Return a cache with training, validation and test images; two of a unit at a time."""
        sizes = {"train": np.array(counts), "val": np.full(CLASSES, 5), "test": np.full(CLASSES, 5)}
        label = np.concatenate([np.repeat(np.arange(CLASSES), n) for n in sizes.values()])
        split = np.concatenate([np.full(n.sum(), name) for name, n in sizes.items()])
        columns: dict[str, list[object]] = {
            "label": label.tolist(),
            "split": split.tolist(),
            "unit": [f"u{n // 2}" for n in range(len(label))],
        }
        values = self.images(label)
        return write_cache(self.root / name, values, columns, text=self.text)

    def pool(
        self, cache: Cache, labels: np.ndarray, extra: np.ndarray | None = None, name: str = "pool"
    ) -> Cache:
        """Return a pool: an image around each label, then ``extra`` rows as they are."""
        values = self.images(labels)
        if extra is not None:
            values = np.concatenate([values, extra])
        columns: dict[str, list[object]] = {
            "source": [f"site{n % 4}" for n in range(len(values))],
            "url": [f"https://host{n % 3}.org/{n}" for n in range(len(values))],
            "caption": [f"<script>alert({n})</script>" for n in range(len(values))],
            "license": ["CC0"] * len(values),
        }
        return write_cache(self.root / name, values, columns, encoder_of=cache.path)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return a new world in a folder of its own."""
    return World(tmp_path)
