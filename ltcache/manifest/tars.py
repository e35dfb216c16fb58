"""Tar files, never unpacked: which of their members may be read, and where each lies."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

from ltcache.errors import ManifestError
from ltcache.manifest.roots import Place, open_place, stamp

_BLOCK = 512


@dataclass(frozen=True)
class TarIndex:
    """Where the members of a tar file lie.

    Args:
        place: the file.
        stamp: its size and time of change when it was indexed.
        members: name -> (offset, size) in bytes, in the archive's order.
    """

    place: Place
    stamp: tuple[int, int]
    members: dict[str, tuple[int, int]]


def tar_index(place: Place) -> TarIndex:
    """Return the index of a tar file; the last few are remembered while the file stays as it is.

    Raises:
        ManifestError: no tar file, cut short, or with a member that is absolute, holds ``..``, is a
            link, a device or a sparse file, or comes twice; names file and member.
    """
    return _indexed(place, stamp(place))


@lru_cache(maxsize=4096)
def _indexed(place: Place, found: tuple[int, int]) -> TarIndex:
    members: dict[str, tuple[int, int]] = {}
    try:
        with open_place(place) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member, name, complaint in tar_members(archive, found[0]):
                if complaint:
                    raise ManifestError(f"{place}: the member {member.name!r} {complaint}")
                if name in members:
                    raise ManifestError(f"{place}: the member {name!r} comes twice")
                members[name] = (member.offset_data, member.size)
            _check_end(place, file, archive.offset)
    except ManifestError:
        raise
    except Exception as error:  # tarfile lets struct, value and key errors of broken headers pass
        raise ManifestError(f"{place}: cannot be read as a tar file: {error}") from None
    if not members:
        raise ManifestError(f"{place}: an empty tar file")
    return TarIndex(place, found, members)


def _check_end(place: Place, file: BinaryIO, end: int) -> None:
    """Refuse an archive without its end mark: tarfile takes any damage for the end."""
    file.seek(end)
    block = file.read(_BLOCK)
    if len(block) < _BLOCK:
        raise ManifestError(f"{place}: cut short: the archive has no end mark; copy it again")
    if block.strip(b"\0"):
        raise ManifestError(f"{place}: damaged at byte {end}: no header of a member; copy it again")


def tar_members(
    archive: tarfile.TarFile, size: int | None = None
) -> Iterator[tuple[tarfile.TarInfo, str, str]]:
    """Yield each member that is no folder: as it stands there, its name, and why not to read it.

    Args:
        archive: open for reading, as a stream too; its list of members stays empty.
        size: of the file in bytes where members lie in it uncompressed.

    Yields:
        The member, its name without a leading ``./``, and an empty text or the complaint.
    """
    for member in archive:
        archive.members = []  # type: ignore[attr-defined]  # tarfile would keep them
        if not member.isdir():
            parts = [part for part in member.name.split("/") if part not in ("", ".")]
            yield member, "/".join(parts), _complaint(member, parts, size)


def _complaint(member: tarfile.TarInfo, parts: Sequence[str], size: int | None) -> str:
    """Return why a member is no plain file inside the archive, or an empty text."""
    if member.name.startswith("/") or ".." in parts or "\\" in member.name:
        return "leads out of the archive"
    if not member.isreg() or member.issparse():
        return "is not a plain file (a link, a device or a sparse file)"
    if size is not None and member.offset_data + member.size > size:
        return "ends beyond the file: it is cut short; copy it again"
    try:
        member.name.encode()
    except UnicodeEncodeError:
        return "has a name that is not UTF-8"
    return "" if parts else "has no name"
