"""Images as a person names them: files, folders, archives, and lists of paths.

A stream: nothing is listed ahead, so a folder of millions of images costs no memory. What cannot be
read is one :class:`ImageInput` whose ``read`` raises, never the end of the stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ltcache.manifest import NO_IMAGES, ImageInput, LeftOut, file_input, named_among_images


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
    holder = named_among_images(path)
    return iter((file_input(path),)) if holder is None else holder.inputs(others)
