"""The images of a directory or an archive, here or remote, as paths relative to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from ltcache.manifest.file_names import uri_of
from ltcache.manifest.image_files import (
    NO_IMAGES,
    Heads,
    LeftOut,
    images_among,
    is_image,
    is_visible,
)
from ltcache.manifest.long_texts import text_array, whole_texts
from ltcache.manifest.roots.catalogue import root_format
from ltcache.manifest.roots.places import Root
from ltcache.manifest.roots.root_format import NamedFiles
from ltcache.records import one_line


@one_line
@dataclass(frozen=True)
class FileTree:
    """What lies below a root, hidden things and ``__MACOSX`` left out.

    Args:
        images: sorted uris (see :mod:`ltcache.manifest.file_names`); as Python texts, millions of
            them would need gigabytes.
        bare: folders with no image at all below them: classes without images.
        warnings: a sentence for each kind of file that is left out or was given another name.
    """

    images: pa.StringArray
    bare: frozenset[str]
    warnings: tuple[str, ...] = ()


def read_tree(root: Root) -> FileTree:
    """Return the images below a directory (links are followed) or in an archive.

    Raises:
        ManifestError: a folder may not be read, or the archive is damaged.
    """
    holder = root_format(root)
    return _tree(holder.parts(), holder.heads)


def _tree(parts: Iterable[NamedFiles], heads: Heads) -> FileTree:
    """Put together what lies in one folder after the other."""
    occupied: set[str] = set()
    folders: set[str] = set()
    images = [pa.array([], pa.string())]
    others = LeftOut(NO_IMAGES)
    hidden = LeftOut("hidden image(s) are left out")
    renamed = LeftOut("file name(s) are not UTF-8, so that odd bytes are written out")
    repeated = LeftOut("member(s) come more than once, and the last counts")
    for part in parts:
        visible = [name for name in part.files if is_visible(name)]
        found, rest = images_among(visible, heads)
        uris = _uris(found, renamed)
        images.append(text_array(uris))
        others.add(rest)
        hidden.add(name for name in part.files if _is_hidden_image(name))
        repeated.add(name for name in part.repeated if is_visible(name))
        occupied |= _folders_of(uris)
        folders |= _folders_of(map(uri_of, rest))
        folders |= {uri_of(name) for name in part.folders if is_visible(name)}
    paths = whole_texts(pa.chunked_array(images))
    images.clear()
    paths = paths.take(pc.sort_indices(paths))
    pa.default_memory_pool().release_unused()
    warnings = [s for left in (others, hidden, renamed, repeated) for s in left.sentences()]
    return FileTree(paths, frozenset(folders - occupied), tuple(warnings))


def _uris(names: list[str], renamed: LeftOut) -> list[str]:
    """Return the uris of files; names that are not UTF-8 are counted."""
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        uris = list(map(uri_of, names))
        renamed.add(uri for uri, name in zip(uris, names, strict=True) if uri != name)
        return uris
    return names


def _is_hidden_image(name: str) -> bool:
    """Return whether an image is hidden by its own name; those of macOS (``._x``) are none."""
    folder, slash, base = name.rpartition("/")
    hidden = base.startswith(".") and not base.startswith("._")
    return hidden and is_image(base) and is_visible(folder + slash)


def _folders_of(names: Iterable[str]) -> set[str]:
    """Return the folders in which files lie, and those above them."""
    found: set[str] = set()
    for folder in {name.rpartition("/")[0] for name in names}:
        found.update((folder, *_parents(folder)))
    return found - {""}


def _parents(name: str) -> Iterable[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name
