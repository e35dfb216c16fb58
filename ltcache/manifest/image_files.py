"""Which files are images: the one rule for folders, archives, addresses of fsspec and lists.

An image is what Pillow opens: a file whose suffix (in any case) Pillow reads, or one without a
suffix that begins as one of Pillow's formats does (``photo.jpg?w=300`` and ``scan.2020`` have none
either). Left out of Pillow's formats are those that it only writes (.pdf), that need a program or a
library besides it (.eps, .wmf, .grib, .h5), and that hold no picture (.mpg, .iim).
"""

from __future__ import annotations

import codecs
import os
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from ltcache.manifest.text import printable

HEAD_BYTES = 512
"""How much of a file without a suffix is looked at."""

NO_IMAGES = "file(s) are not images"
"""What is said of the files that are left out."""

_NOT_DECODED = ("BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF")
_SUFFIX = re.compile(r"(?<=[^/])\.[A-Za-z][A-Za-z0-9]{0,9}\Z")
_CONTROLS = frozenset(range(32)) - frozenset(b"\t\n\f\r\x1b")
_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
_NAMED = 5  # of what is left out

Heads = Callable[[Sequence[str]], Iterable[bytes]]
"""Names of files -> the first bytes of each; none where a file cannot be read."""


@cache
def image_formats() -> tuple[str, ...]:
    """Return the names of the formats that Pillow reads by itself, the frequent ones first.

    Opened with these alone, no file can have Pillow start a program, as .eps does (Ghostscript).
    Formats that are known by their first bytes come before those that only an attempt can tell,
    several of which every WebP file would otherwise be read as first.
    """
    from PIL import Image

    Image.init()
    decoded = [form for form in Image.ID if form not in _NOT_DECODED]
    return tuple(sorted(decoded, key=lambda form: Image.OPEN[form][1] is None))


@cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of images in lower case, with their dots."""
    from PIL import Image

    readable = {*image_formats(), "MPO"}  # MPO is opened by the reader of JPEG
    return frozenset(suffix for suffix, form in Image.EXTENSION.items() if form in readable)


def suffix_of(name: str) -> str:
    """Return a name's suffix in lower case (``.jpg``), or an empty text where it has none."""
    found = _SUFFIX.search(name)
    return found.group().lower() if found else ""


def is_image(name: str) -> bool:
    """Return whether a file name has the suffix of an image."""
    return suffix_of(name) in image_suffixes()


def begins_as_image(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of an image; texts are none."""
    from PIL import Image

    if _is_text(head):
        return False
    tests = [Image.OPEN[form][1] for form in image_formats()]
    return any(accept(head[:16]) for accept in tests if accept)


def _is_text(head: bytes) -> bool:
    """Return whether bytes are text: ``Python...`` and ``BMW...`` begin as a PPM and a BMP do."""
    if not _CONTROLS.isdisjoint(head):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return True


def images_among(names: Sequence[str], heads: Heads) -> tuple[list[str], list[str]]:
    """Return the names of images and the other names, each in their order.

    Args:
        heads: asked for names without a suffix only.
    """
    suffixes = list(map(suffix_of, names))
    bare = [name for name, suffix in zip(names, suffixes, strict=True) if not suffix]
    begun = zip(bare, heads(bare) if bare else (), strict=True)
    known, found = image_suffixes(), {name for name, head in begun if begins_as_image(head)}
    images: list[str] = []
    others: list[str] = []
    for name, suffix in zip(names, suffixes, strict=True):
        (images if suffix in known or name in found else others).append(name)
    return images, others


def is_visible(name: str) -> bool:
    """Return whether no part of a path is hidden; ``..`` is not, so that it is refused later."""
    parts = name.split("/")
    return not any((p.startswith(".") and p != "..") or p == "__MACOSX" for p in parts)


def read_head(path: Path | str) -> bytes:
    """Return the first bytes of a regular file; none of anything else, without waiting."""
    try:
        descriptor = os.open(path, _FLAGS)
    except (OSError, ValueError):
        return b""
    try:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return os.read(descriptor, HEAD_BYTES) if regular else b""
    except OSError:
        return b""
    finally:
        os.close(descriptor)


@dataclass
class LeftOut:
    """Counts the files that are left out for one reason; the first few are named.

    Args:
        reason: the rest of the sentence: ``are not images``.
        count: so many. first: the names of the first few.
    """

    reason: str
    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, names: Iterable[str]) -> None:
        """Count some more."""
        for name in names:
            self.count += 1
            if len(self.first) < _NAMED:
                self.first.append(name)

    def sentences(self) -> list[str]:
        """Return one sentence, or none where nothing was left out."""
        if not self.count:
            return []
        more = f" and {self.count - len(self.first)} more" if self.count > len(self.first) else ""
        return [f"{self.count} {self.reason}: {', '.join(map(printable, self.first))}{more}"]
