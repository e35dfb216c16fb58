"""The index of a tar file: every member's place in it, found once and never unpacked."""

from __future__ import annotations

import tarfile
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
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # tarfile would keep them
                if member.isdir():
                    continue
                name = _checked(place, member, found[0])
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


def _checked(place: Place, member: tarfile.TarInfo, size: int) -> str:
    """Return a member's name without a leading ``./``; refuses what is no plain file inside."""
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    shown = f"{place}: the member {member.name!r}"
    if member.name.startswith("/") or ".." in parts or "\\" in member.name:
        raise ManifestError(f"{shown} leads out of the archive")
    if not member.isreg() or member.issparse():
        raise ManifestError(f"{shown} is not a plain file (a link, a device or a sparse file)")
    if member.offset_data + member.size > size:
        raise ManifestError(f"{shown} ends beyond the file: it is cut short; copy it again")
    try:
        member.name.encode()
    except UnicodeEncodeError:
        raise ManifestError(f"{shown} has a name that is not UTF-8") from None
    if not parts:
        raise ManifestError(f"{shown} has no name")
    return "/".join(parts)
