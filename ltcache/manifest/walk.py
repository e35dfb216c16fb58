"""The files below a folder, one folder after the other: links are followed, hidden folders not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ltcache.manifest.image_files import is_visible


@dataclass(frozen=True)
class FolderListing:
    """What lies in one folder.

    Args:
        prefix: its path below the root, with a ``/`` at the end; empty for the root itself.
        files: paths below the root of all that is no folder, sorted. folders: those of folders
            that are not hidden, sorted.
        error: why the folder cannot be read, or None.
    """

    prefix: str
    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    error: OSError | None = None


def walk_folder(root: Path) -> Iterator[FolderListing]:
    """Yield each folder below ``root``, parents first and neighbours sorted.

    A link back to a folder that is being walked through is not entered; a link that leads nowhere
    or to itself is a file.
    """
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while waiting:
        prefix, trail = waiting.pop()
        try:
            status = os.stat(root / prefix)
            here = (status.st_dev, status.st_ino)
            if here in trail:
                continue
            found = _list_folder(root, prefix)
        except OSError as error:
            yield FolderListing(prefix, error=error)
            continue
        yield found
        waiting += [(f"{name}/", trail | {here}) for name in reversed(found.folders)]


def _list_folder(root: Path, prefix: str) -> FolderListing:
    files: list[str] = []
    folders: list[str] = []
    with os.scandir(root / prefix) as entries:
        for entry in entries:
            if not is_folder_entry(entry):
                files.append(prefix + entry.name)
            elif is_visible(entry.name):
                folders.append(prefix + entry.name)
    return FolderListing(prefix, sorted(files), sorted(folders))


def is_folder_entry(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or leads to one; a link to itself does not."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to where nothing may be looked up
        return False
