"""The images of a directory or an archive, here or remote, as paths relative to it."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ltcache.errors import ManifestError
from ltcache.manifest.roots import Place, Remote, Root, open_place, places_of, root_kind
from ltcache.manifest.tars import tar_index

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")


@dataclass(frozen=True)
class Tree:
    """What lies below a root, hidden things and ``__MACOSX`` left out.

    Args:
        images: sorted paths with ``/``, by suffix in any case; as Python texts, millions of them
            would need gigabytes.
        bare: folders with no file at all below them: classes without images.
    """

    images: pa.StringArray
    bare: frozenset[str]


def read_tree(root: Root) -> Tree:
    """Return the images below a directory (links are followed) or in an archive.

    Raises:
        ManifestError: a folder may not be read, or the archive is damaged.
    """
    if isinstance(root, Path) and root.is_dir():
        return _tree(root, _walk(root))
    if isinstance(root, Remote) and root.is_dir():
        files = root.files()
    else:
        files = archive_names(root)
    folders = [name.rstrip("/") for name in files if name.endswith("/")]
    return _tree(root, [([name for name in files if not name.endswith("/")], folders)])


def _tree(root: Root, parts: Iterable[tuple[list[str], list[str]]]) -> Tree:
    """Put together what lies in one folder after the other: paths of files, and of folders."""
    occupied: set[str] = set()
    bare: set[str] = set()
    images = [pa.array([], pa.string())]
    for files, folders in parts:
        visible = [name for name in files if _visible(name)]
        for folder in {name.rpartition("/")[0] for name in visible}:
            occupied.update((folder, *_parents(folder)))
        bare.update(name for name in folders if _visible(name))
        images.append(path_array(root, [name for name in visible if is_image(name)]))
    paths = pa.chunked_array(images).combine_chunks()
    images.clear()
    paths = paths.take(pc.sort_indices(paths))
    pa.default_memory_pool().release_unused()
    return Tree(paths, frozenset(bare - occupied))


def path_array(where: object, paths: list[str]) -> pa.StringArray:
    """Return paths as a column.

    Raises:
        ManifestError: a name is not UTF-8.
    """
    try:
        return pa.array(paths, pa.string())
    except UnicodeEncodeError:
        name = next(path for path in paths if _not_unicode(path))
        raise ManifestError(f"{where}: the file name {name!r} is not UTF-8; rename it") from None


def _not_unicode(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def is_image(name: str) -> bool:
    """Return whether a file name ends as those of images do."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def archive_names(root: Root) -> list[str]:
    """Return the member names of a .zip file or of one or several .tar files.

    Raises:
        ManifestError: the file is missing or no archive.
    """
    places = places_of(root)
    if root_kind(root) == "tar":
        return [name for place in places for name in tar_index(place).members]
    return zip_names(places[0])


def zip_names(path: Place) -> list[str]:
    """Return the member names of a .zip file.

    Raises:
        ManifestError: the file is missing or no archive.
    """
    try:
        with open_place(path) as file, zipfile.ZipFile(file) as archive:
            return archive.namelist()
    except ManifestError:
        raise
    except Exception as error:  # zipfile lets struct and value errors of broken archives pass
        raise ManifestError(f"{path}: cannot be read as a .zip file: {error}") from None


def _walk(root: Path) -> Iterator[tuple[list[str], list[str]]]:
    """Yield files and folders of each folder below ``root``; a link back to where we are is not
    entered."""
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while waiting:
        prefix, trail = waiting.pop()
        folder = root / prefix
        files: list[str] = []
        folders: list[str] = []
        try:
            status = folder.stat()
            here = (status.st_dev, status.st_ino)
            if here in trail:
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = prefix + entry.name
                    if entry.is_dir():
                        folders.append(name)
                        waiting.append((name + "/", trail | {here}))
                    elif entry.is_file() or entry.is_symlink():
                        files.append(name)
        except OSError as error:
            raise ManifestError(f"{folder}: cannot be read: {error.strerror}") from None
        yield files, folders


def _visible(name: str) -> bool:
    """Return whether no part of a path is hidden; ``..`` is not, so that it is refused later."""
    parts = name.split("/")
    return not any((p.startswith(".") and p != "..") or p == "__MACOSX" for p in parts)


def _parents(name: str) -> Iterable[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name
