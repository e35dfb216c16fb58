"""From the name of a file or member to its uri and back: one mapping to list, key and read by.

A uri is Unicode and has ``/`` between its parts. A byte that is no UTF-8 stands in it as ``\\xff``.
Members of archives lose empty parts and ``.``; a backslash is a character of a name as any other,
but in a member's name without any ``/`` it separates folders: old Windows programs write it so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

_UNTIDY = re.compile(r"\\|//|(^|/)\.(/|\Z)|/\Z")
_ESCAPED = re.compile(r"\\x([89a-f][0-9a-f])")


def uri_of(name: str) -> str:
    """Return a name as Python has it from the file system, with odd bytes written out."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return name


def local_path(root: Path, uri: str) -> Path:
    """Return the file or folder at ``uri`` below ``root``, as the file system has its name."""
    path = root / uri
    if not _ESCAPED.search(uri) or os.path.lexists(path):
        return path
    return root / _ESCAPED.sub(lambda found: chr(0xDC00 + int(found.group(1), 16)), uri)


def leaves_root(uri: str) -> bool:
    """Return whether a uri is absolute or has a part ``..``, by Windows' rules for parts too."""
    return uri.startswith("/") or ".." in uri.replace("\\", "/").split("/")


def member_uri(name: str) -> str:
    """Return the uri of an archive's member; absolute paths and ``..`` stay, to be refused."""
    if not _UNTIDY.search(name):
        return uri_of(name)
    if "/" not in name:
        name = name.replace("\\", "/")
    start = "/" if name.startswith("/") else ""
    return uri_of(start + "/".join(part for part in name.split("/") if part not in ("", ".")))


def member_uris(names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Return uri -> member of an archive in its order, and the uris that come more than once.

    Of members with one name the last counts, as when an archive is unpacked. Where ``a/1.jpg``
    stands beside ``a\\1.jpg``, the latter keeps its backslash.
    """
    pairs = [(member_uri(name), name) for name in names]
    windows = {name for _, name in pairs if "\\" in name and "/" not in name}
    plain = {uri for uri, name in pairs if name not in windows} if windows else set()
    members: dict[str, str] = {}
    repeated: dict[str, None] = {}
    for uri, name in pairs:
        if name in windows and uri in plain:
            uri = uri_of(name)
        if uri in members:
            repeated[uri] = None
        members[uri] = name
    return members, list(repeated)


def is_folder(name: str) -> bool:
    """Return whether a member of an archive is a folder by its name."""
    return name.endswith("/") or ("/" not in name and name.endswith("\\"))
