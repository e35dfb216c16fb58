"""Which listed images are not there, found fast, with a hint at the layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ltcache.errors import ManifestError
from ltcache.manifest.layouts import layout_hint
from ltcache.manifest.manifest import Manifest
from ltcache.manifest.roots.catalogue import root_format
from ltcache.manifest.roots.places import Root
from ltcache.manifest.text import printable

_FIRST = 5
_SORTED = 1 << 20  # paths that are looked for folder by folder at a time
_BLOCK = 8192  # paths that are Python values at a time


@dataclass(frozen=True)
class MissingFiles:
    """What `missing_files` found.

    Args:
        count: number of rows whose image is not there.
        total: number of rows looked for.
        first: the first five uris that are missing.
        hint: what seems to be wrong with the layout, or an empty text.
        root: where they were looked for.
    """

    count: int
    total: int
    first: tuple[str, ...]
    hint: str
    root: Root

    def __bool__(self) -> bool:
        """Whether any file is missing."""
        return self.count > 0

    def __str__(self) -> str:
        """The report, several lines."""
        if not self.count:
            return f"all {self.total} images are below {self.root}"
        lines = [f"{self.count} of {self.total} images are missing below {self.root}:"]
        lines += [f"  {printable(uri)}" for uri in self.first]
        lines += ["  ..."] if self.count > len(self.first) else []
        return "\n".join(lines + ([self.hint] if self.hint else []))


def missing_files(manifest: Manifest, root: Root | None = None) -> MissingFiles:
    """Look for every image of a manifest, one directory listing per folder.

    Args:
        root: where to look; by default the manifest's own root.

    Raises:
        ManifestError: there is no root, or it cannot be read.
    """
    root = root or manifest.root
    if root is None:
        raise ManifestError(f"{manifest.name}: no root is known; give one with --root")
    uris = manifest.rows["uri"]
    if not root.exists():
        hint = f"hint: {root} does not exist; give the images' place with --root"
        return MissingFiles(len(uris), len(uris), tuple(uris[:_FIRST].to_pylist()), hint, root)
    holder = root_format(root)
    exists = holder.contains()
    missing = uris.filter(pa.array(_lost(uris, exists))).to_pylist()
    hint = layout_hint(holder, missing, exists) if missing else ""
    if not hint and len(missing) == len(uris):
        hint = f"hint: none of the images is below {root}; give their place with --root"
    return MissingFiles(len(missing), len(uris), tuple(missing[:_FIRST]), hint, root)


def _lost(uris: pa.ChunkedArray, exists: Callable[[str], bool]) -> np.ndarray:
    """Return which images are not there, bool (n,); looked for folder by folder."""
    lost = np.zeros(len(uris), dtype=bool)
    for begin in range(0, len(uris), _SORTED):
        part = uris.slice(begin, _SORTED)
        order = pc.sort_indices(part)
        for start in range(0, len(part), _BLOCK):
            block = order.slice(start, _BLOCK)
            absent = [not exists(uri) for uri in part.take(block).to_pylist()]
            lost[begin + block.to_numpy()] = absent
    return lost
