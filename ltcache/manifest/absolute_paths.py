"""Absolute paths in lists: those below the root are taken relative to it, others are refused."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from ltcache.errors import ManifestError
from ltcache.manifest.long_texts import text_array
from ltcache.manifest.roots.places import RemotePlace, Root, ShardedRoot
from ltcache.manifest.rows import Listing

_ABSOLUTE = r"^/|^[A-Za-z]:[/\\]|^[A-Za-z][A-Za-z0-9+.-]*://"


def relative_to_root(listings: Sequence[Listing], root: Root | None) -> list[Listing]:
    """Return listings whose absolute paths are relative to the root.

    The folders of a path are compared as they are written, with the root as it is written and with
    what its links lead to.

    Raises:
        ManifestError: an absolute path is not below the root; names the line, and the root that
            would do where there is one.
    """
    found = [_relative(listing, root) for listing in listings]
    for listing in found:
        if (row := pc.index(_absolute(listing), True).as_py()) >= 0:
            raise ManifestError(
                f"{listing.place(row)}: the path {listing.uri(row)!r} is absolute and not below "
                f"the root {root}; {_remedy(found)}"
            )
    return found


def _absolute(listing: Listing) -> pa.Array:
    """Return which paths are absolute, bool (n,); none of files in a folder, which are no text."""
    if listing.lines is None or isinstance(listing.uris, list):
        return pa.repeat(False, len(listing.uris))
    return pc.match_substring_regex(listing.uris, _ABSOLUTE)


def _relative(listing: Listing, root: Root | None) -> Listing:
    """Return a listing as a column of paths, those below the root relative to it."""
    try:
        uris = text_array(listing.uris) if isinstance(listing.uris, list) else listing.uris
    except UnicodeEncodeError:  # complained about by line
        return listing
    listing = replace(listing, uris=uris)
    if not pc.any(_absolute(listing)).as_py():
        return listing
    for start in _beginnings(root):
        below = pc.starts_with(uris, start)
        uris = pc.if_else(below, pc.utf8_slice_codeunits(uris, len(start)), uris)
    return replace(listing, uris=uris)


def _beginnings(root: Root | None) -> list[str]:
    """Return how paths below a root may begin, each with a ``/`` at the end."""
    if root is None or isinstance(root, ShardedRoot):
        return []
    if isinstance(root, RemotePlace):
        return [f"{str(root).rstrip('/')}/"]
    folders = dict.fromkeys((os.path.abspath(root), os.path.realpath(root)))
    return [f"{scheme}{folder.rstrip('/')}/" for folder in folders for scheme in ("file://", "")]


def _remedy(listings: Sequence[Listing]) -> str:
    """Return what to do: the root below which all paths lie, if their first is there."""
    paths = pa.chunked_array([pc.cast(listing.uris, pa.large_string()) for listing in listings])
    least, most = (pc.min_max(paths)[name].as_py() for name in ("min", "max"))
    if least.startswith("/") and most.startswith("/"):
        folder = os.path.commonpath([os.path.dirname(least), os.path.dirname(most)])
        if folder != "/" and os.path.isfile(least):
            return f"give --root {folder}, below which all of them lie"
    return "write the paths relative to the folder of the images, and give that with --root"
