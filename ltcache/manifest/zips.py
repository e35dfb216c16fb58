"""Zip files, never unpacked: the uris of their members."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ltcache.errors import ManifestError
from ltcache.manifest.file_names import is_folder, member_uri, member_uris
from ltcache.manifest.image_files import HEAD_BYTES
from ltcache.manifest.roots import Place, open_place


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


def zip_index(place: Place) -> ZipIndex:
    """Return the index of a zip file.

    Raises:
        ManifestError: the file is missing or no archive.
    """
    with _opened(place) as archive:
        return index_of(archive)


def index_of(archive: zipfile.ZipFile) -> ZipIndex:
    """Return the index of an open zip file."""
    names = archive.namelist()
    members, repeated = member_uris(name for name in names if not is_folder(name))
    return ZipIndex(members, [member_uri(name) for name in names if is_folder(name)], repeated)


def zip_heads(place: Place, members: Sequence[str]) -> list[bytes]:
    """Return the first bytes of some members; none of one that cannot be read.

    Raises:
        ManifestError: the file is missing or no archive.
    """
    with _opened(place) as archive:
        return [head_of(archive, member) for member in members]


def head_of(archive: zipfile.ZipFile, member: str) -> bytes:
    """Return the first bytes of a member, or none if it cannot be read."""
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
