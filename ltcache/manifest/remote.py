"""Lists and cards behind an address of fsspec: fetched aside, read as if they were here."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ltcache.errors import ManifestError
from ltcache.manifest.directory import CARD
from ltcache.manifest.draft import SourceDraft
from ltcache.manifest.lists import LIST_SUFFIXES, is_names_file
from ltcache.manifest.roots.places import RemotePlace, Root, as_root
from ltcache.manifest.tables import TABLE_FORMS

_MOST_BYTES = 1 << 30
Renamed = Callable[[SourceDraft], SourceDraft]


@contextmanager
def fetching(source: Any, holds_lists: Callable[[Path], bool]) -> Iterator[tuple[Any, Renamed]]:
    """Fetch the lists that a remote source consists of for as long as they are read.

    Args:
        holds_lists: whether a folder is read by the lists in it: texts may lie beside class
            folders.

    Yields:
        What to read in place of ``source`` (itself, where nothing had to be fetched), and a
        function that gives a draft its own addresses back; errors get them by themselves.
    """
    remote = _lone_remote(source)
    wanted = _wanted(remote) if remote else []
    if remote is None or not wanted:
        yield source, lambda draft: draft
        return
    with tempfile.TemporaryDirectory(prefix="ltcache-") as temporary:
        is_folder = wanted[0].parent.uri == remote.uri.rstrip("/")
        folder = remote if is_folder else remote.parent
        local = Path(temporary).resolve() / "parent" / (folder.name or "root")
        local.mkdir(parents=True)
        back = _AddressRestorer(str(local), str(folder).rstrip("/"))
        for place in wanted:
            _fetch(place, local / place.name)
        if is_folder and not holds_lists(local):
            yield source, lambda draft: draft
            return
        try:
            yield (local if is_folder else local / remote.name), back.draft
        except ManifestError as error:
            raise type(error)(back.text(str(error))) from None


def _lone_remote(source: Any) -> RemotePlace | None:
    """Return a source that is one remote file or folder."""
    if not isinstance(source, (str, Path, RemotePlace)):
        return None
    place = as_root(source)
    return place if isinstance(place, RemotePlace) else None


def _wanted(remote: RemotePlace) -> Sequence[RemotePlace]:
    """Return the lists to fetch: a list and class names beside it, or those of a folder."""
    suffixes = (*LIST_SUFFIXES, *TABLE_FORMS, ".json")
    if remote.suffix.lower() in suffixes and not remote.is_dir():
        beside = [place for place in _files_in(remote.parent) if is_names_file(place.name)]
        return [remote, *(place for place in beside if place.name != remote.name)]
    if not remote.is_dir():
        return []
    files = [place for place in _files_in(remote) if place.suffix.lower() in suffixes]
    if any(place.name == CARD for place in files):
        return files
    return files if any(not is_names_file(place.name) for place in files) else []


def _files_in(folder: RemotePlace) -> list[RemotePlace]:
    return [folder / name for name in folder.names() if name[0] != "."]


def _fetch(place: RemotePlace, target: Path) -> None:
    if (size := place.size()) > _MOST_BYTES:
        raise ManifestError(f"{place}: {size} bytes are too many to fetch as a list")
    try:
        target.write_bytes(place.read())
    except Exception as error:  # every file system has errors of its own
        raise ManifestError(f"{place}: cannot be read: {error}") from None


class _AddressRestorer:
    """Puts addresses in the place of the temporary folder."""

    def __init__(self, local: str, address: str) -> None:
        self.pairs = ((local, address), (str(Path(local).parent), address.rpartition("/")[0]))

    def text(self, text: str) -> str:
        for local, address in self.pairs:
            text = text.replace(local, address)
        return text

    def draft(self, draft: SourceDraft) -> SourceDraft:
        listings = [replace(item, where=self.text(item.where)) for item in draft.listings]
        root: Root | None = draft.root
        if isinstance(root, Path):
            root = as_root(self.text(str(root)))
        return replace(draft, listings=listings, root=root)
