"""Where the images of a cache, or of a pool, were: kept in its folder, beside what is checked.

Nothing depends on it and no digest covers it, so that a cache is the same wherever its images lie.
A path that was given relative to the working folder is kept relative to the cache: both may move
together.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from ltcache.errors import ManifestError
from ltcache.manifest.packaged import packaged_names
from ltcache.manifest.roots.places import Place, RemotePlace, Root, one_root, places_of
from ltcache.manifest.source import root_of
from ltcache.records import write_json

ROOT_FILE = "root.json"


def keep_root(folder: Path, root: Root | None) -> None:
    """Write into a folder where its images are; not where it says so already, or is read-only."""
    if root is None or root == kept_root(folder):
        return
    try:
        write_json(folder / ROOT_FILE, {"root": [_kept(folder, p) for p in places_of(root)]})
    except OSError:
        return  # what was said before stays


def kept_root(folder: Path) -> Root | None:
    """Return where the images of a folder were, or None where it does not say so."""
    try:
        texts = json.loads((folder / ROOT_FILE).read_text())["root"]
        return one_root([_found(folder, text) for text in texts]) if texts else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def image_root(folder: Path, name: str) -> Root | None:
    """Return where the images of a cache are: the answer of every command that is not told it.

    Args:
        folder: of the cache. name: of its manifest; the images of a packaged one come with it.
    """
    root = kept_root(folder)
    try:
        if root is not None and root.exists():
            return root
    except ManifestError:  # an address that cannot be reached
        pass
    return root_of(name) if name in packaged_names() else None


def _kept(folder: Path, place: Place) -> str:
    if isinstance(place, RemotePlace) or place.is_absolute():
        return str(place)
    return os.path.relpath(place, folder.resolve())


def _found(folder: Path, text: str) -> Place:
    """Return a place as a person in the working folder would write it."""
    if "://" in text:
        return RemotePlace(text)
    if Path(text).is_absolute():
        return Path(text)
    whole = Path(os.path.normpath(folder.resolve() / text))
    return whole.relative_to(Path.cwd()) if whole.is_relative_to(Path.cwd()) else whole
