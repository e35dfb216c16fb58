"""Identities as values: canonical JSON, its SHA-256, and field-by-field differences.

Never pickles and never a random name: what cannot be written as JSON is an error.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ltcache.errors import IdentityError

READ_BLOCK = 1 << 20
"""Bytes that are read at a time."""


def canonical_json(value: Any) -> str:
    """Return the one JSON text of ``value``: sorted keys, no blanks, no NaN.

    Raises:
        TypeError, ValueError: the value has a part that JSON cannot say.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(value: Any) -> str:
    """Return the SHA-256 (hex, 64 characters) of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def bytes_digest(data: bytes | memoryview) -> str:
    """Return the SHA-256 (hex) of ``data``."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 (hex) of a file, read in blocks of 1 MiB."""
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(READ_BLOCK):
            sha.update(block)
    return sha.hexdigest()


def differences(expected: Any, found: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Return dotted field -> (expected, found) for every leaf in which two JSON values differ."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        result: dict[str, tuple[Any, Any]] = {}
        for key in sorted(set(expected) | set(found)):
            name = f"{prefix}.{key}" if prefix else str(key)
            result |= differences(expected.get(key), found.get(key), name)
        return result
    if _plain(expected) == _plain(found):
        return {}
    return {prefix or "value": (expected, found)}


def require_equal(
    kind: str,
    expected: Any,
    found: Any,
    *,
    allow_stale: Collection[str] = (),
    remedy: str = "",
) -> list[str]:
    """Refuse two identities that differ, unless the user allowed it by name.

    Args:
        kind: the name of the identity, as it stands in messages and in ``--allow-stale``.
        allow_stale: kinds (``encoder``) or dotted fields (``encoder.towers.image``) to let pass; a
            text is one of them.

    Returns:
        The differing fields that were let pass, for marking the results.

    Raises:
        IdentityError: with every differing field and both values.
    """
    found_differences = differences(expected, found)
    allowed = {allow_stale} if isinstance(allow_stale, str) else {*allow_stale}
    refused = {
        field: pair
        for field, pair in found_differences.items()
        if not {kind, f"{kind}.{field}"} & allowed
    }
    if refused:
        raise IdentityError(kind, refused, remedy)
    return [f"{kind}.{field}" for field in found_differences]


@contextmanager
def telling_classes(expected: Sequence[str], found: Sequence[str]) -> Iterator[None]:
    """Let a refusal because of class lists, of which identities keep digests, name the classes.

    Args:
        expected, found: the names in label order; nothing is added where one of them is not known.
    """
    try:
        yield
    except IdentityError as error:
        parts = {part for field in (error.kind, *error.differences) for part in field.split(".")}
        if not parts & {"classes", "names", "num_classes"} or not any(expected) or not any(found):
            raise
        told = differing_classes(expected, found)
        remedy = "\n".join(filter(None, (told, error.remedy)))
        raise IdentityError(error.kind, error.differences, remedy) from None


def differing_classes(expected: Sequence[str], found: Sequence[str], most: int = 5) -> str:
    """Return in words the first classes in which two lists differ, or an empty text."""
    pairs = list(itertools.zip_longest(expected, found))
    differ = [(label, *pair) for label, pair in enumerate(pairs) if pair[0] != pair[1]]
    if not differ:
        return ""
    shown = [
        "label {}: {} expected, {} found".format(label, *_names(mine, theirs))
        for label, mine, theirs in differ[:most]
    ]
    shown += [f"and {len(differ) - most} more"] if len(differ) > most else []
    same = sorted(expected) == sorted(found)
    order = "; both lists have the same names, in another order" if same else ""
    return f"{len(differ)} of {len(pairs)} classes differ: {'; '.join(shown)}{order}"


def _names(*names: str | None) -> list[str]:
    """Return class names for a message, escaped where they look the same but are not."""
    looks = {unicodedata.normalize("NFC", name) for name in names if name is not None}
    show = ascii if len(looks) == 1 and None not in names else repr
    return ["no class" if name is None else show(name) for name in names]


def _plain(value: Any) -> Any:
    """Return lists for tuples, so that a value equals itself after a trip through JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
