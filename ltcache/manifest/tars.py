"""Tar files, never unpacked: which of their members may be read, and where each lies."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

from ltcache.errors import ImageError, ManifestError
from ltcache.manifest.file_names import leaves_root, member_uri, member_uris
from ltcache.manifest.image_files import HEAD_BYTES
from ltcache.manifest.ranges import read_range
from ltcache.manifest.roots import Place, open_place, stamp

_BLOCK = 512


@dataclass(frozen=True)
class TarIndex:
    """Where the members of a tar file lie.

    Args:
        place: the file.
        stamp: its size and time of change when it was indexed.
        members: uri (see :mod:`ltcache.manifest.file_names`) -> (offset, size) in bytes, in the
            archive's order.
        repeated: uris that come more than once: the last of them counts, as in unpacking.
    """

    place: Place
    stamp: tuple[int, int]
    members: dict[str, tuple[int, int]]
    repeated: tuple[str, ...] = ()


def tar_index(place: Place) -> TarIndex:
    """Return the index of a tar file; the last few are remembered while the file stays as it is.

    Raises:
        ManifestError: no tar file, cut short, or with a member that is absolute, holds ``..``, is a
            link, a device or a sparse file; names file and member.
    """
    return _indexed(place, stamp(place))


@lru_cache(maxsize=4096)
def _indexed(place: Place, found: tuple[int, int]) -> TarIndex:
    names: list[str] = []
    spans: dict[str, tuple[int, int]] = {}
    try:
        with open_place(place) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member, _, complaint in tar_members(archive, found[0]):
                if complaint:
                    raise ManifestError(f"{place}: the member {member.name!r} {complaint}")
                names.append(member.name)
                spans[member.name] = (member.offset_data, member.size)
            _check_end(place, file, archive.offset)
    except ManifestError:
        raise
    except Exception as error:  # tarfile lets struct, value and key errors of broken headers pass
        raise ManifestError(f"{place}: cannot be read as a tar file: {error}") from None
    if not names:
        raise ManifestError(f"{place}: an empty tar file")
    members, repeated = member_uris(names)
    return TarIndex(
        place, found, {uri: spans[name] for uri, name in members.items()}, tuple(repeated)
    )


def tar_heads(index: TarIndex, uris: Sequence[str]) -> list[bytes]:
    """Return the first bytes of some members; none of one that cannot be read."""
    return [_head(index, *index.members[uri]) for uri in uris]


def _head(index: TarIndex, start: int, size: int) -> bytes:
    try:
        return read_range(index.place, index.stamp, start, min(size, HEAD_BYTES))
    except ImageError:
        return b""


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
    """Yield each member that is no folder: as it stands there, its uri, and why not to read it.

    Args:
        archive: open for reading, as a stream too; its list of members stays empty.
        size: of the file in bytes where members lie in it uncompressed.

    Yields:
        The member, its uri, and an empty text or the complaint.
    """
    for member in archive:
        archive.members = []  # type: ignore[attr-defined]  # tarfile would keep them
        if not member.isdir():
            uri = member_uri(member.name)
            yield member, uri, _complaint(member, uri, size)


def _complaint(member: tarfile.TarInfo, uri: str, size: int | None) -> str:
    """Return why a member is no plain file inside the archive, or an empty text."""
    if leaves_root(uri):
        return "leads out of the archive"
    if not member.isreg() or member.issparse():
        return "is not a plain file (a link, a device or a sparse file)"
    if size is not None and member.offset_data + member.size > size:
        return "ends beyond the file: it is cut short; copy it again"
    return "" if uri else "has no name"
