"""A few images in three classes, long-tailed, as a manifest with train and val."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from ltcache.manifest import Manifest, read_manifest
from tests.conftest import write_images

TRAIN = {"red fox": 14, "blue jay": 6, "newt": 3}
VAL = 3


def write_pictures(root: Path) -> Path:
    """Write the images below ``root``."""
    return write_images(root, {name: count + VAL for name, count in TRAIN.items()}, size=36)


def read_pictures(root: Path, val: bool = True) -> Manifest:
    """Return the images' manifest; the first of each class are ``val``, or left out."""
    manifest = read_manifest(root)
    seen: dict[int, int] = {}
    splits = []
    for label in manifest.rows["label"].to_pylist():
        seen[label] = seen.get(label, 0) + 1
        splits.append("val" if seen[label] <= VAL else "train")
    place = manifest.rows.column_names.index("split")
    rows = manifest.rows.set_column(place, "split", pa.array(splits))
    if not val:
        rows = rows.filter(pa.compute.equal(rows["split"], "train"))
        rows = rows.set_column(0, "row_id", pa.array(range(rows.num_rows), pa.int64()))
    return replace(manifest, rows=rows)
