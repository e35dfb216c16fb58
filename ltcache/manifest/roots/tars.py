"""Tar files, never unpacked: which of their members may be read, where each lies, its bytes."""

from __future__ import annotations

import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import BinaryIO

from ltcache.errors import ImageError, ManifestError
from ltcache.manifest.file_names import leaves_root, member_uri, member_uris
from ltcache.manifest.image_files import (
    HEAD_BYTES,
    LeftOut,
    begins_as_image,
    is_image,
    is_visible,
    suffix_of,
)
from ltcache.manifest.roots.limits import check_size, safe_uri
from ltcache.manifest.roots.mapped_members import MANY, MappedMembers, Spans, mapped_members
from ltcache.manifest.roots.places import Place, open_place, places_of, stamp
from ltcache.manifest.roots.ranges import read_range
from ltcache.manifest.roots.root_format import (
    ImageInput,
    NamedFiles,
    RootFormat,
    unreadable,
)
from ltcache.records import digest

_BLOCK = 512
_LARGE = 1 << 30  # bytes of tar files that may have many members


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
    members: Spans
    repeated: tuple[str, ...] = ()


def tar_indices(places: Sequence[Place]) -> list[TarIndex]:
    """Return the index of each tar file; the last few are remembered while the files stay.

    Those of many members on this machine are mapped from a file, so that no process holds them.

    Raises:
        ManifestError: no tar file, cut short, or with a member that is absolute, holds ``..``, is a
            link, a device or a sparse file; names file and member.
    """
    stamped = [(place, stamp(place)) for place in places]
    local = all(isinstance(place, Path) for place in places)  # else no time tells what changed
    if local and sum(size for _, (size, _) in stamped) >= _LARGE:
        names = [[os.path.abspath(str(place)), *found] for place, found in stamped]
        members = mapped_members(digest([1, *names]), _one_by_one(stamped))
        if members is not None:
            _indexed.cache_clear()
            pairs = zip(stamped, members, strict=True)
            return [TarIndex(place, found, own, own.repeated) for (place, found), own in pairs]
    return [_indexed(place, found) for place, found in stamped]


def _one_by_one(
    stamped: Sequence[tuple[Place, tuple[int, int]]],
) -> Iterator[tuple[Spans, Sequence[str]]]:
    """Yield the members of each file; they are remembered as long as they are few."""
    count = 0
    for place, found in stamped:
        index = (_indexed if count < MANY else _indexed.__wrapped__)(place, found)
        count += len(index.members)
        yield index.members, index.repeated


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


class TarRoot(RootFormat):
    """One .tar file or several: ``SHARD/MEMBER``, or ``MEMBER`` where one shard alone has it."""

    suffixes = (".tar",)
    named_suffixes = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")  # read as a stream
    several = True

    @cached_property
    def index(self) -> dict[str, TarIndex]:
        """See :meth:`RootFormat.index`: that of each file, by its name."""
        return {shard.place.name: shard for shard in tar_indices(places_of(self.root))}

    def parts(self) -> list[NamedFiles]:
        """See :meth:`RootFormat.parts`."""
        return [NamedFiles(list(s.members), repeated=s.repeated) for s in self.index.values()]

    def heads(self, names: Sequence[str]) -> list[bytes]:
        """See :meth:`RootFormat.heads`."""
        having = {name: shard for shard in self.index.values() for name in shard.members}
        return [tar_heads(having[name], [name])[0] for name in names]

    def contains(self) -> Callable[[str], bool]:
        """See :meth:`RootFormat.contains`."""
        if any(isinstance(shard.members, MappedMembers) for shard in self.index.values()):
            return self._contains
        names = {f"{file}/{name}" for file, shard in self.index.items() for name in shard.members}
        return names.union(*(shard.members for shard in self.index.values())).__contains__

    def _contains(self, uri: str) -> bool:
        first, _, rest = uri.partition("/")
        if first in self.index and rest in self.index[first].members:
            return True
        return any(uri in shard.members for shard in self.index.values())

    def inputs(self, left_out: LeftOut) -> Iterator[ImageInput]:
        """See :meth:`RootFormat.inputs`: in the archive's order, compressed or not."""
        path = Path(str(self.place))
        try:
            with tarfile.open(path, "r|*") as archive:
                for member, uri, complaint in tar_members(archive):
                    name = f"{path}/{uri}"
                    if not is_visible(uri):
                        continue
                    found = _of_member(name, archive, member, complaint)
                    if found is None:
                        left_out.add([name])
                    else:
                        yield found
        except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, tarfile.TarError) as e:
            yield unreadable(str(path), f"the tar archive cannot be read further ({e})")

    def read(self, uri: str) -> bytes:
        """See :meth:`RootFormat.read`."""
        shard, name = self._find(str(safe_uri(uri)))
        start, size = shard.members[name]
        check_size(size)
        return read_range(shard.place, shard.stamp, start, size)

    def _find(self, uri: str) -> tuple[TarIndex, str]:
        first, _, rest = uri.partition("/")
        if first in self.index and rest in self.index[first].members:
            return self.index[first], rest
        having = [shard for shard in self.index.values() if uri in shard.members]
        if len(having) == 1:
            return having[0], uri
        if having:
            raise ImageError(f"{len(having)} shards have such a member; name it as SHARD/MEMBER")
        raise ImageError("No such member in the tar file")


def _of_member(
    name: str, archive: tarfile.TarFile, member: tarfile.TarInfo, complaint: str
) -> ImageInput | None:
    """Return the image that a member is, read now, or None where it is none."""
    if suffix_of(name) and not is_image(name):
        return None
    if complaint:
        return unreadable(name, f"the member {complaint}")
    try:
        check_size(member.size)
    except ImageError as error:
        return unreadable(name, str(error))
    stream = archive.extractfile(member)
    head = stream.read(HEAD_BYTES) if stream else b""
    if not is_image(name) and not begins_as_image(head):
        return None
    return ImageInput(name, partial(bytes, head + (stream.read() if stream else b"")))
