"""Images as a person names them: files, folders, archives, and lists of paths.

A stream: nothing is listed ahead, so a folder of millions of images costs no memory. What cannot be
read is one :class:`Input` whose ``read`` raises, never the end of the stream.
"""

from __future__ import annotations

import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ltcache.errors import ImageError
from ltcache.images import open_store
from ltcache.images.limits import check_size
from ltcache.images.stores import DirectoryStore
from ltcache.manifest.tars import tar_members
from ltcache.manifest.tree import IMAGE_SUFFIXES

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True)
class Input:
    """One image.

    Args:
        name: as it was named; a member of an archive is ``archive.zip/member.png``.
        read: returns the encoded bytes or raises :class:`ImageError`; safe in another thread.
    """

    name: str
    read: Callable[[], bytes]


def inputs(names: Iterable[str | Path], lines: Iterable[str] | None = None) -> Iterator[Input]:
    """Yield the images that names stand for, in order.

    Args:
        names: files; folders (images below them, sorted within each folder); .zip and .tar
            archives (their images in the archive's order); ``-``: the names in ``lines``.
        lines: one name each, such as standard input; blank lines are passed over.
    """
    for name in names:
        if str(name) == "-":
            stripped = (line.rstrip("\r\n") for line in lines or ())
            yield from inputs(line for line in stripped if line.strip() not in ("", "-"))
        else:
            yield from _expand(Path(name))


def _expand(path: Path) -> Iterator[Input]:
    # those of os.path answer "no" where pathlib's raise: a name too long, no permission
    if os.path.isdir(path):
        return _of_folder(path)
    if path.name.lower().endswith(_TAR_SUFFIXES) and os.path.isfile(path):
        return _of_tar(path)
    if path.suffix.lower() == ".zip" and os.path.isfile(path):
        return _of_zip(path)
    return iter((_file(path),))


def read_file(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        ImageError: missing, no permission, no regular file, or longer than an image can be.
    """
    return DirectoryStore(path.parent).read(path.name)


def _file(path: Path) -> Input:
    return Input(str(path), partial(read_file, path))


def _of_folder(root: Path) -> Iterator[Input]:
    failed: list[OSError] = []
    for directory, folders, files in os.walk(root, onerror=failed.append):
        folders.sort()
        for name in sorted(files):
            if _is_image(name):
                yield _file(Path(directory, name))
    for error in failed:
        yield _unreadable(str(error.filename), error.strerror or type(error).__name__)


def _of_zip(path: Path) -> Iterator[Input]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [item for item in archive.infolist() if _is_image(item.filename)]
    except (OSError, zipfile.BadZipFile) as error:
        yield _unreadable(str(path), f"not a zip archive ({error})")
        return
    store = open_store(path)  # a handle for each thread
    for member in members:
        yield Input(f"{path}/{member.filename}", partial(store.read, member.filename))


def _of_tar(path: Path) -> Iterator[Input]:
    """Read in the archive's order, compressed or not, and never unpack."""
    try:
        with tarfile.open(path, "r|*") as archive:
            for member, _, complaint in tar_members(archive):
                if _is_image(member.name):
                    yield _of_member(f"{path}/{member.name}", archive, member, complaint)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, tarfile.TarError) as error:
        yield _unreadable(str(path), f"the tar archive cannot be read further ({error})")


def _of_member(
    name: str, archive: tarfile.TarFile, member: tarfile.TarInfo, complaint: str
) -> Input:
    if complaint:
        return _unreadable(name, f"the member {complaint}")
    try:
        check_size(member.size)
    except ImageError as error:
        return _unreadable(name, str(error))
    stream = archive.extractfile(member)
    return Input(name, partial(bytes, stream.read() if stream else b""))


def _is_image(name: str) -> bool:
    base = name.rpartition("/")[2]
    return base.lower().endswith(IMAGE_SUFFIXES) and not base.startswith("._")


def _unreadable(name: str, reason: str) -> Input:
    def read() -> bytes:
        raise ImageError(reason)

    return Input(name, read)
