"""Where the bytes of a manifest's uris come from: folders and archives, one reader for each."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Protocol

from ltcache.errors import ImageError, ManifestError
from ltcache.images.archives import ParquetStore, SavedStore, TarStore, ZipStore
from ltcache.images.decoding import stable_text
from ltcache.images.limits import check_size, safe_uri
from ltcache.manifest import RemotePlace, Root, ShardedRoot, as_root, local_path, root_kind

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe must not block


class ImageStore(Protocol):
    """Where the bytes of a manifest's uris come from. Safe to use from several threads."""

    def read(self, uri: str) -> bytes:
        """Return the bytes at ``uri`` (relative to the root) or raise :class:`ImageError`."""
        ...


def open_store(root: Root | str | None) -> ImageStore:
    """Return the store of a root (see :mod:`ltcache.manifest.roots` for what can be one).

    Raises:
        ManifestError: there is no such root, or it is damaged; names the file.
    """
    if root is None:
        raise ManifestError("the manifest has no root for its images: give one with --root")
    place = as_root(root)
    kind = root_kind(place)
    if kind == "tar":
        return TarStore(place)
    if kind == "parquet":
        return ParquetStore(place)
    assert not isinstance(place, ShardedRoot)
    if kind == "zip":
        return ZipStore(place)
    if isinstance(place, RemotePlace):
        return RemoteStore(place)
    return SavedStore(place) if kind == "dataset" else DirectoryStore(place)


class DirectoryStore:
    """Images as files below a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, uri: str) -> bytes:
        """See :class:`ImageStore`."""
        path = local_path(self.root, str(safe_uri(uri)))
        try:
            return _read_file(path)
        except OSError as error:
            raise ImageError(error.strerror or type(error).__name__) from None


class RemoteStore:
    """Images as files below an address of fsspec."""

    def __init__(self, root: RemotePlace) -> None:
        self.root = root

    def read(self, uri: str) -> bytes:
        """See :class:`ImageStore`."""
        place = self.root / str(safe_uri(uri))
        try:
            check_size(place.size())
            return place.read()
        except ImageError:
            raise
        except Exception as error:  # every file system has errors of its own
            if isinstance(error, FileNotFoundError) or not place.exists():
                raise ImageError("No such file") from None
            raise ImageError(stable_text(error)) from None


def _read_file(path: Path) -> bytes:
    """Return the content of a regular file; a pipe is refused instead of waited for."""
    try:
        descriptor = os.open(path, _FLAGS)
    except ValueError:  # a zero byte
        raise ImageError("the path is not one of a file") from None
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise ImageError("Is a directory")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("not a regular file")
        check_size(status.st_size)
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            return file.readall()
    finally:
        os.close(descriptor)
