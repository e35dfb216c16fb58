"""The images of a directory or an archive, here or remote, as paths relative to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ltcache.errors import ManifestError
from ltcache.manifest.file_names import uri_of
from ltcache.manifest.image_files import (
    NO_IMAGES,
    Heads,
    LeftOut,
    images_among,
    is_image,
    is_visible,
    read_head,
)
from ltcache.manifest.roots import RemotePlace, Root, places_of, root_kind
from ltcache.manifest.tars import tar_heads, tar_index
from ltcache.manifest.walk import walk_folder
from ltcache.manifest.zips import zip_heads, zip_index
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


@dataclass(frozen=True)
class _NamedFiles:
    """Files and folders by their names, and which names come more than once."""

    files: list[str]
    folders: list[str]
    repeated: list[str]


def read_tree(root: Root) -> FileTree:
    """Return the images below a directory (links are followed) or in an archive.

    Raises:
        ManifestError: a folder may not be read, or the archive is damaged.
    """
    if isinstance(root, Path) and root.is_dir():
        return _tree(_walk(root), lambda names: [read_head(root / name) for name in names])
    if isinstance(root, RemotePlace) and root.is_dir():
        return _tree([_NamedFiles(root.files(), [], [])], root.heads)
    if root_kind(root) == "tar":
        shards = [tar_index(place) for place in places_of(root)]
        members = {name: shard for shard in shards for name in shard.members}
        parts = [_NamedFiles(list(shard.members), [], list(shard.repeated)) for shard in shards]
        return _tree(parts, lambda names: [tar_heads(members[n], [n])[0] for n in names])
    place = places_of(root)[0]
    index = zip_index(place)
    part = _NamedFiles(list(index.members), index.folders, index.repeated)
    return _tree([part], lambda names: zip_heads(place, [index.members[name] for name in names]))


def _walk(root: Path) -> Iterator[_NamedFiles]:
    for found in walk_folder(root):
        if found.error:
            where = root / found.prefix
            raise ManifestError(f"{where}: cannot be read: {found.error.strerror}") from None
        yield _NamedFiles(found.files, found.folders, [])


def _tree(parts: Iterable[_NamedFiles], heads: Heads) -> FileTree:
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
        images.append(pa.array(uris, pa.string()))
        others.add(rest)
        hidden.add(name for name in part.files if _is_hidden_image(name))
        repeated.add(name for name in part.repeated if is_visible(name))
        occupied |= _folders_of(uris)
        folders |= _folders_of(map(uri_of, rest))
        folders |= {uri_of(name) for name in part.folders if is_visible(name)}
    paths = pa.chunked_array(images).combine_chunks()
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


def archive_uris(root: Root) -> list[str]:
    """Return the uris of the files in a .zip file or in one or several .tar files.

    Raises:
        ManifestError: the file is missing or no archive.
    """
    places = places_of(root)
    if root_kind(root) == "tar":
        return [name for place in places for name in tar_index(place).members]
    return list(zip_index(places[0]).members)


def _parents(name: str) -> Iterable[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name
