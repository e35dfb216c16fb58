"""Where the bytes of a manifest's uris come from: folders and archives, one reader for each."""

from __future__ import annotations

import os
import stat
import threading
import zipfile
from pathlib import Path, PurePosixPath
from typing import Protocol

from ltcache.errors import ImageError, ManifestError
from ltcache.images.decoding import stable_text

MAX_BYTES = 1 << 30
"""Largest accepted encoded image: what is longer is no image, or a bomb."""

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe must not block


class ImageStore(Protocol):
    """Where the bytes of a manifest's uris come from. Safe to use from several threads."""

    def read(self, uri: str) -> bytes:
        """Return the bytes at ``uri`` (relative to the root) or raise :class:`ImageError`."""
        ...


def open_store(root: Path | str | None) -> ImageStore:
    """Return the store of a root: a directory, or a zip file that is read without unpacking.

    Raises:
        ManifestError: there is no such directory or zip file.
    """
    if root is None:
        raise ManifestError("the manifest has no root for its images: give one with --root")
    root = Path(root)
    if root.is_dir():
        return DirectoryStore(root)
    if root.is_file() and zipfile.is_zipfile(root):
        return ZipStore(root)
    raise ManifestError(f"{root}: the root of the images is neither a directory nor a zip file")


class DirectoryStore:
    """Images as files below a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, uri: str) -> bytes:
        """See :class:`ImageStore`."""
        path = self.root / safe_uri(uri)
        try:
            return _read_file(path)
        except OSError as error:
            raise ImageError(error.strerror or type(error).__name__) from None


class ZipStore:
    """Images as members of one zip file; each thread holds a handle of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()

    def read(self, uri: str) -> bytes:
        """See :class:`ImageStore`."""
        name = str(safe_uri(uri))
        try:
            archive = self._archive()
            check_size(archive.getinfo(name).file_size)
            return archive.read(name)
        except KeyError:
            raise ImageError("No such member in the zip file") from None
        except ImageError:
            raise
        except Exception as error:  # zlib, lzma and zipfile raise errors of their own
            raise ImageError(stable_text(error)) from None

    def _archive(self) -> zipfile.ZipFile:
        archive = getattr(self._local, "archive", None)
        if archive is None:
            archive = self._local.archive = zipfile.ZipFile(self.path)
        return archive


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


def check_size(size: int) -> None:
    """Refuse an encoded image of more than ``MAX_BYTES`` before it is read.

    Raises:
        ImageError: names both sizes.
    """
    if size > MAX_BYTES:
        raise ImageError(f"{size} bytes, more than {MAX_BYTES} (MAX_BYTES)")


def safe_uri(uri: str) -> PurePosixPath:
    """Return ``uri`` as a relative path; a path that leaves its root is refused.

    Raises:
        ImageError: absolute, or with a ``..`` part.
    """
    path = PurePosixPath(uri)
    if path.is_absolute() or ".." in path.parts:
        raise ImageError("the path leaves the root of the images")
    return path
