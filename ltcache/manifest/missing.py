"""Which listed images are not there, found fast, with a hint at the layout."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ltcache.errors import ManifestError
from ltcache.manifest.file_names import local_path, uri_of
from ltcache.manifest.layouts import layout_hint
from ltcache.manifest.manifest import Manifest
from ltcache.manifest.parquet import num_rows
from ltcache.manifest.roots import RemotePlace, Root, places_of, root_kind
from ltcache.manifest.saved import saved_splits
from ltcache.manifest.tars import tar_index
from ltcache.manifest.text import printable
from ltcache.manifest.tree import archive_uris

_FIRST = 5
_BLOCK = 8192  # paths that are Python values at a time
_LISTED = 64  # folders whose names are kept


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
        raise ManifestError(f"{manifest.name}: no root is known; give one with root=")
    uris = manifest.rows["uri"]
    if not root.exists():
        hint = f"hint: {root} does not exist; give the images' place with root="
        return MissingFiles(len(uris), len(uris), tuple(uris[:_FIRST].to_pylist()), hint, root)
    exists = _exists_in(root)
    missing = uris.filter(pa.array(_lost(uris, exists))).to_pylist()
    hint = layout_hint(root, missing, exists) if missing else ""
    if not hint and len(missing) == len(uris):
        hint = f"hint: none of the images is below {root}; give their place with root="
    return MissingFiles(len(missing), len(uris), tuple(missing[:_FIRST]), hint, root)


def _lost(uris: pa.ChunkedArray, exists: Callable[[str], bool]) -> np.ndarray:
    """Return which images are not there, bool (n,); looked for folder by folder."""
    lost = np.zeros(len(uris), dtype=bool)
    order = pc.sort_indices(uris)
    for start in range(0, len(uris), _BLOCK):
        block = order.slice(start, _BLOCK)
        lost[block.to_numpy()] = [not exists(uri) for uri in uris.take(block).to_pylist()]
    return lost


def _exists_in(root: Root) -> Callable[[str], bool]:
    """Return a test for uris below a root."""
    kind = root_kind(root)
    if kind == "folder":
        return set(root.files()).__contains__ if isinstance(root, RemotePlace) else _in_folder(root)
    if kind == "zip":
        return set(archive_uris(root)).__contains__
    if kind == "tar":
        inside = [(place.name, tar_index(place).members) for place in places_of(root)]
        names = {f"{shard}/{m}" for shard, members in inside for m in members}
        return names.union(*(members for _, members in inside)).__contains__
    if kind == "parquet":
        rows = {place.name: num_rows(place) for place in places_of(root)}
    else:
        rows = {split: len(part) for split, part in saved_splits(Path(str(root))).items()}
    return lambda uri: _is_row(uri, rows)


def _is_row(uri: str, rows: Mapping[str, int]) -> bool:
    """Return whether ``FILE/12`` is a row of one of the tables."""
    table, _, number = uri.rpartition("/")
    return number.isdecimal() and int(number) < rows.get(table, 0)


def _in_folder(root: Root) -> Callable[[str], bool]:
    """Return a test for files below ``root`` that lists a folder once if asked in order."""

    @lru_cache(maxsize=_LISTED)
    def listed(folder: str) -> frozenset[str]:
        return frozenset(map(uri_of, _files(local_path(Path(str(root)), folder))))

    def exists(uri: str) -> bool:
        folder, _, name = uri.rpartition("/")
        return name in listed(folder)

    return exists


def _files(folder: Path) -> Iterable[str]:
    """Return the names of the files in a folder; none if it is not there."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if _is_file(entry)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ManifestError(f"{folder}: cannot be read: {error.strerror}") from None


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself, or to where nothing may be looked up
        return False
