"""Images as files below a folder, here or behind an address of fsspec."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path

from ltcache.errors import ImageError, ManifestError
from ltcache.manifest.file_names import local_path, uri_of
from ltcache.manifest.image_files import LeftOut, images_among, is_visible, read_head
from ltcache.manifest.roots.limits import check_size, safe_uri, stable_text
from ltcache.manifest.roots.places import Place, RemotePlace, Root
from ltcache.manifest.roots.root_format import (
    ImageInput,
    NamedFiles,
    RootFormat,
    unreadable,
)
from ltcache.manifest.walk import is_folder_entry, walk_folder

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe must not block
_LISTED = 64  # folders whose names are kept


class FolderRoot(RootFormat):
    """A folder of this machine; links are followed."""

    def __init__(self, root: Root) -> None:
        super().__init__(root)
        self.folder = Path(str(root))

    @classmethod
    def recognises(cls, place: Place) -> bool:
        """See :meth:`RootFormat.recognises`."""
        return isinstance(place, Path)

    def parts(self) -> Iterator[NamedFiles]:
        """See :meth:`RootFormat.parts`."""
        for found in walk_folder(self.folder):
            if found.error:
                where = self.folder / found.prefix
                raise ManifestError(f"{where}: cannot be read: {found.error.strerror}") from None
            yield NamedFiles(found.files, found.folders)

    def heads(self, names: Sequence[str]) -> list[bytes]:
        """See :meth:`RootFormat.heads`."""
        return [read_head(self.folder / name) for name in names]

    def contains(self) -> Callable[[str], bool]:
        """Return a test that lists a folder once if it is asked in order."""

        @lru_cache(maxsize=_LISTED)
        def listed(folder: str) -> frozenset[str]:
            return frozenset(map(uri_of, _files(local_path(self.folder, folder))))

        def exists(uri: str) -> bool:
            folder, _, name = uri.rpartition("/")
            return name in listed(folder)

        return exists

    def top_folders(self) -> Iterable[str]:
        """See :meth:`RootFormat.top_folders`."""
        with os.scandir(self.folder) as entries:
            return {entry.name for entry in entries if is_folder_entry(entry)}

    def inputs(self, left_out: LeftOut) -> Iterator[ImageInput]:
        """See :meth:`RootFormat.inputs`: a stream, sorted within each folder."""
        for found in walk_folder(self.folder):
            if error := found.error:
                where = str(self.folder / found.prefix)
                yield unreadable(where, error.strerror or type(error).__name__)
            images, rest = images_among([n for n in found.files if is_visible(n)], self.heads)
            left_out.add(str(self.folder / name) for name in rest)
            for name in images:
                yield file_input(self.folder / name)

    def read(self, uri: str) -> bytes:
        """See :meth:`RootFormat.read`."""
        path = local_path(self.folder, str(safe_uri(uri)))
        try:
            return _content(path)
        except OSError as error:
            raise ImageError(error.strerror or type(error).__name__) from None


class RemoteFolderRoot(RootFormat):
    """A folder behind an address of fsspec."""

    def __init__(self, root: Root) -> None:
        super().__init__(root)
        self.folder = RemotePlace(str(root))

    @classmethod
    def recognises(cls, place: Place) -> bool:
        """See :meth:`RootFormat.recognises`."""
        return isinstance(place, RemotePlace)

    def parts(self) -> list[NamedFiles]:
        """See :meth:`RootFormat.parts`."""
        return [NamedFiles(self.folder.files())]

    def heads(self, names: Sequence[str]) -> list[bytes]:
        """See :meth:`RootFormat.heads`."""
        return self.folder.heads(names)

    def top_folders(self) -> Iterable[str]:
        """Return none: listing all that is there once more, for a hint, takes too long."""
        return ()

    def read(self, uri: str) -> bytes:
        """See :meth:`RootFormat.read`."""
        place = self.folder / str(safe_uri(uri))
        try:
            check_size(place.size())
            return place.read()
        except ImageError:
            raise
        except Exception as error:  # every file system has errors of its own
            if isinstance(error, FileNotFoundError) or not place.exists():
                raise ImageError("No such file") from None
            raise ImageError(stable_text(error)) from None


def read_file(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        ImageError: missing, no permission, no regular file, or longer than an image can be.
    """
    return FolderRoot(path.parent).read(path.name)


def file_input(path: Path) -> ImageInput:
    """Return a file as an image."""
    return ImageInput(str(path), partial(read_file, path))


def _content(path: Path) -> bytes:
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
