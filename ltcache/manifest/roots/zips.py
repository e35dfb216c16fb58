"""Zip files, never unpacked: the uris of their members, and the bytes of each."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ltcache.errors import ImageError, ManifestError
from ltcache.manifest.file_names import is_folder, member_uri, member_uris
from ltcache.manifest.image_files import HEAD_BYTES
from ltcache.manifest.roots.limits import check_size, safe_uri, stable_text
from ltcache.manifest.roots.places import Place, Root, open_place
from ltcache.manifest.roots.root_format import NamedFiles, RootFormat

_UTF8 = 0x800
"""The flag of a member whose name is UTF-8."""


@dataclass(frozen=True)
class ZipIndex:
    """What is in a zip file.

    Args:
        members: uri -> member of every file, in the archive's order.
        folders: uris of the folders that have an entry of their own.
        repeated: uris of files that come more than once: the last of them counts.
    """

    members: dict[str, str]
    folders: list[str]
    repeated: list[str]


class ZipRoot(RootFormat):
    """A .zip file, also by its directory; each thread that reads holds a handle of its own."""

    suffixes = named_suffixes = (".zip",)

    def __init__(self, root: Root) -> None:
        super().__init__(root)
        self._local = threading.local()

    @classmethod
    def recognises(cls, place: Place) -> bool:
        """See :meth:`RootFormat.recognises`."""
        return isinstance(place, Path) and zipfile.is_zipfile(place)

    @cached_property
    def index(self) -> ZipIndex:
        """See :meth:`RootFormat.index`."""
        with _opened(self.place) as archive:
            names = {_written_name(info): info.filename for info in archive.infolist()}
            every = [_written_name(info) for info in archive.infolist()]
        members, repeated = member_uris(name for name in every if not is_folder(name))
        folders = [member_uri(name) for name in names if is_folder(name)]
        return ZipIndex({uri: names[name] for uri, name in members.items()}, folders, repeated)

    def parts(self) -> list[NamedFiles]:
        """See :meth:`RootFormat.parts`."""
        return [NamedFiles(list(self.index.members), self.index.folders, self.index.repeated)]

    def heads(self, names: Sequence[str]) -> list[bytes]:
        """See :meth:`RootFormat.heads`."""
        with _opened(self.place) as archive:
            return [_head(archive, self.index.members[name]) for name in names]

    def read(self, uri: str) -> bytes:
        """See :meth:`RootFormat.read`."""
        name = str(safe_uri(uri))
        try:
            archive = self._archive()
            member = archive.getinfo(self.index.members.get(name, name))
            check_size(member.file_size)
            return archive.read(member)
        except KeyError:
            raise ImageError("No such member in the zip file") from None
        except ImageError:
            raise
        except Exception as error:  # zlib, lzma and zipfile raise errors of their own
            raise ImageError(stable_text(error)) from None

    def _archive(self) -> zipfile.ZipFile:
        archive: zipfile.ZipFile | None = getattr(self._local, "archive", None)
        if archive is None:
            source: Any = self.place if isinstance(self.place, Path) else open_place(self.place)
            archive = self._local.archive = zipfile.ZipFile(source)
        return archive


def _written_name(info: zipfile.ZipInfo) -> str:
    """Return the name of a member as it was written.

    macOS writes UTF-8 without saying so in the member's flags, and ``zipfile`` then takes the name
    for one of DOS, in which an accent becomes two odd signs. What is valid UTF-8 is no such name.
    """
    if info.flag_bits & _UTF8 or info.filename.isascii():
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename


def _head(archive: zipfile.ZipFile, member: str) -> bytes:
    try:
        with archive.open(member) as file:
            return file.read(HEAD_BYTES)
    except Exception:  # zlib, lzma and zipfile raise errors of their own
        return b""


@contextmanager
def _opened(place: Place) -> Iterator[zipfile.ZipFile]:
    try:
        with open_place(place) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except ManifestError:
        raise
    except Exception as error:  # zipfile lets struct and value errors of broken archives pass
        raise ManifestError(f"{place}: cannot be read as a .zip file: {error}") from None
