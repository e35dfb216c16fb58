"""Images as a person names them: files, folders, archives, and lists of paths.

A stream: nothing is listed ahead, so a folder of millions of images costs no memory. What cannot be
read is one :class:`ImageInput` whose ``read`` raises, never the end of the stream.
"""

from __future__ import annotations

import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ltcache.errors import ImageError, ManifestError
from ltcache.images.limits import check_size
from ltcache.images.stores import DirectoryStore, open_store
from ltcache.manifest import (
    HEAD_BYTES,
    NO_IMAGES,
    LeftOut,
    begins_as_image,
    images_among,
    is_image,
    is_visible,
    read_head,
    suffix_of,
    tar_members,
    walk_folder,
    zip_heads,
    zip_index,
)

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True)
class ImageInput:
    """One image.

    Args:
        name: as it was named; a member of an archive is ``archive.zip/member.png``.
        read: returns the encoded bytes or raises :class:`ImageError`; safe in another thread.
    """

    name: str
    read: Callable[[], bytes]


def inputs(
    names: Iterable[str | Path],
    lines: Iterable[str] | None = None,
    left_out: LeftOut | None = None,
) -> Iterator[ImageInput]:
    """Yield the images that names stand for, in order.

    A file that is named is taken as it is. Of folders and archives the images are taken
    (:mod:`ltcache.manifest.image_files`) and hidden files are not.

    Args:
        names: files; folders (images below them, sorted within each folder); .zip and .tar
            archives (their images in the archive's order); ``-``: the names in ``lines``.
        lines: one name each, such as standard input; blank lines are passed over.
        left_out: counts what is no image.
    """
    others = left_out or LeftOut(NO_IMAGES)
    for name in names:
        if str(name) == "-":
            stripped = (line.rstrip("\r\n") for line in lines or ())
            named = (line for line in stripped if line.strip() not in ("", "-"))
            yield from inputs(named, left_out=others)
        else:
            yield from _expand(Path(name), others)


def _expand(path: Path, others: LeftOut) -> Iterator[ImageInput]:
    # those of os.path answer "no" where pathlib's raise: a name too long, no permission
    if os.path.isdir(path):
        return _of_folder(path, others)
    if path.name.lower().endswith(_TAR_SUFFIXES) and os.path.isfile(path):
        return _of_tar(path, others)
    if path.suffix.lower() == ".zip" and os.path.isfile(path):
        return _of_zip(path, others)
    return iter((_file(path),))


def read_file(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        ImageError: missing, no permission, no regular file, or longer than an image can be.
    """
    return DirectoryStore(path.parent).read(path.name)


def _file(path: Path) -> ImageInput:
    return ImageInput(str(path), partial(read_file, path))


def _of_folder(root: Path, others: LeftOut) -> Iterator[ImageInput]:
    for found in walk_folder(root):
        if error := found.error:
            yield _unreadable(str(root / found.prefix), error.strerror or type(error).__name__)
        visible = [name for name in found.files if is_visible(name)]
        images, rest = images_among(visible, lambda names: [read_head(root / n) for n in names])
        others.add(str(root / name) for name in rest)
        for name in images:
            yield _file(root / name)


def _of_zip(path: Path, others: LeftOut) -> Iterator[ImageInput]:
    try:
        members = zip_index(path).members
        visible = [uri for uri in members if is_visible(uri)]
        images, rest = images_among(
            visible, lambda uris: zip_heads(path, [members[uri] for uri in uris])
        )
        store = open_store(path)  # a handle for each thread
    except ManifestError as error:
        yield _unreadable(str(path), f"not a zip archive ({error})")
        return
    others.add(f"{path}/{uri}" for uri in rest)
    for uri in images:
        yield ImageInput(f"{path}/{uri}", partial(store.read, uri))


def _of_tar(path: Path, others: LeftOut) -> Iterator[ImageInput]:
    """Read in the archive's order, compressed or not, and never unpack."""
    try:
        with tarfile.open(path, "r|*") as archive:
            for member, uri, complaint in tar_members(archive):
                name = f"{path}/{uri}"
                if not is_visible(uri):
                    continue
                found = _of_member(name, archive, member, complaint)
                if found is None:
                    others.add([name])
                else:
                    yield found
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, tarfile.TarError) as error:
        yield _unreadable(str(path), f"the tar archive cannot be read further ({error})")


def _of_member(
    name: str, archive: tarfile.TarFile, member: tarfile.TarInfo, complaint: str
) -> ImageInput | None:
    """Return the image that a member is, read now, or None where it is none."""
    if suffix_of(name) and not is_image(name):
        return None
    if complaint:
        return _unreadable(name, f"the member {complaint}")
    try:
        check_size(member.size)
    except ImageError as error:
        return _unreadable(name, str(error))
    stream = archive.extractfile(member)
    head = stream.read(HEAD_BYTES) if stream else b""
    if not is_image(name) and not begins_as_image(head):
        return None
    return ImageInput(name, partial(bytes, head + (stream.read() if stream else b"")))


def _unreadable(name: str, reason: str) -> ImageInput:
    def read() -> bytes:
        raise ImageError(reason)

    return ImageInput(name, read)
