"""The formats that hold images, and which of them a root is in."""

from __future__ import annotations

import os
from pathlib import Path

from ltcache.errors import ManifestError
from ltcache.manifest.roots.folders import FolderRoot, RemoteFolderRoot
from ltcache.manifest.roots.parquet import ParquetRoot
from ltcache.manifest.roots.places import Root, ShardedRoot, as_root
from ltcache.manifest.roots.root_format import ImageStore, RootFormat
from ltcache.manifest.roots.saved_datasets import SavedDatasetRoot
from ltcache.manifest.roots.tars import TarRoot
from ltcache.manifest.roots.zips import ZipRoot

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tar.xz", ".txz", ".tar.zst")

ROOT_FORMATS: dict[str, type[RootFormat]] = {
    "folder": FolderRoot,
    "address": RemoteFolderRoot,
    "dataset": SavedDatasetRoot,
    "zip": ZipRoot,
    "tar": TarRoot,
    "parquet": ParquetRoot,
}
"""Name -> class; of several that fit a folder or a file, the last."""


def root_suffixes() -> tuple[str, ...]:
    """Return the suffixes of files that hold images."""
    return tuple(suffix for kind in ROOT_FORMATS.values() for suffix in kind.suffixes)


def root_format(root: Root) -> RootFormat:
    """Return a root in its format.

    Raises:
        ManifestError: there is nothing, or something that is in none of :data:`ROOT_FORMATS`.
    """
    kinds = ROOT_FORMATS.values()
    if isinstance(root, ShardedRoot):
        found = {type(root_format(place)) for place in root.places}
        if len(found) > 1 or not all(kind.several for kind in found):
            named = " or ".join(kind.suffixes[0] for kind in kinds if kind.several)
            raise ManifestError(f"{root}: several roots are either {named} files")
        return found.pop()(root)
    if root.is_dir():
        return [kind for kind in kinds if not kind.suffixes and kind.recognises(root)][-1](root)
    if root.name.lower().endswith(_COMPRESSED):
        raise ManifestError(
            f"{root}: a compressed archive has no places to read from; decompress it to .tar"
        )
    if isinstance(root, Path) and not root.is_file():
        raise ManifestError(f"the root {str(root)!r} is neither a folder nor an archive")
    fitting = [kind for kind in kinds if root.suffix.lower() in kind.suffixes]
    fitting = fitting or [kind for kind in kinds if kind.suffixes and kind.recognises(root)]
    if not fitting or not root.exists():
        raise ManifestError(
            f"the root {str(root)!r} is neither a folder nor a {', '.join(root_suffixes())} file"
        )
    return fitting[-1](root)


def named_among_images(path: Path) -> RootFormat | None:
    """Return the folder or archive that a person names among images; None where it is a file."""
    # those of os.path answer "no" where pathlib's raise: a name too long, no permission
    if os.path.isdir(path):
        return root_format(path)
    fitting = [
        kind for kind in ROOT_FORMATS.values() if path.name.lower().endswith(kind.named_suffixes)
    ]
    return fitting[-1](path) if fitting and os.path.isfile(path) else None


def open_store(root: Root | str | None) -> ImageStore:
    """Return the store of a root (see :mod:`ltcache.manifest.roots` for what can be one).

    Raises:
        ManifestError: there is no such root, or it is damaged; names the file.
    """
    if root is None:
        raise ManifestError("the manifest has no root for its images: give one with --root")
    return root_format(as_root(root)).open()
