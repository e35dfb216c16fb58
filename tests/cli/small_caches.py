"""Small caches of imported features, for tests of commands: no image, no encoder, no waiting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from ltcache.manifest import ClassList, Manifest
from ltcache.transfer import import_features

CLASSES = 4


def write_cache(
    out: Path, splits: Mapping[str, Sequence[int]], *, unlabelled: Sequence[str] = ()
) -> Path:
    """Write a cache of four classes with class texts.

    Args:
        splits: name -> rows of each class. unlabelled: splits whose rows have no label.
    """
    rng = np.random.default_rng(0)
    means = rng.normal(size=(CLASSES, 6))
    label = np.concatenate([np.repeat(np.arange(CLASSES), rows) for rows in splits.values()])
    split = np.concatenate([np.full(sum(rows), name) for name, rows in splits.items()])
    features = means[label] + 0.5 * rng.normal(size=(len(label), 6))
    names = [f"{split}/{row}.png" for row, split in enumerate(split)]
    columns = {
        "row_id": np.arange(len(label)),
        "key": names,
        "uri": names,
        "label": np.where(np.isin(split, unlabelled), -1, label).astype(np.int64),
        "split": split.tolist(),
    }
    arrays = out.with_suffix(".npz")
    np.savez(arrays, features=features.astype(np.float16))
    classes = ClassList(tuple(f"class {c}" for c in range(CLASSES)), (None,) * CLASSES)
    manifest = Manifest("list", pa.table(columns), classes)
    import_features(arrays, out, manifest=manifest, text=means, logit_scale=5.0)
    return out
