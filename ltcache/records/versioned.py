"""Records as values: the fields of a frozen dataclass from JSON that some version has written."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from typing import Any

from ltcache import __version__


def record_fields(
    kind: Any, plain: Mapping[str, Any], *, name: str, newest: int = 1, beside: Collection[str] = ()
) -> dict[str, Any]:
    """Return field -> JSON value of a record, for the constructor of its dataclass.

    Args:
        kind: the dataclass. plain: what stands in the file.
        name: of the file, for messages.
        newest: the highest format number that this version reads.
        beside: keys that stand in the file but are no fields, such as what follows from others.

    Raises:
        ValueError: a later version wrote it (a higher format number, or keys that are not known),
            or a field that has no default is missing.
    """
    form = plain.get("format", newest)
    if form > newest:
        raise ValueError(f"{name} is of format {form}, and {_reads(f'formats up to {newest}')}")
    wanted = {field.name: field for field in fields(kind)}
    if unknown := sorted(set(plain) - set(wanted) - {"format", *beside}):
        raise ValueError(f"{name} has {', '.join(unknown)}, and {_reads('no such key')}")
    missing = [
        field.name
        for field in wanted.values()
        if field.name not in plain and field.default is field.default_factory is MISSING
    ]
    if missing:
        raise ValueError(f"{name} lacks {', '.join(sorted(missing))}")
    return {key: plain[key] for key in wanted if key in plain}


def _reads(what: str) -> str:
    return (
        f"ltcache {__version__} reads {what}: a later version wrote it; upgrade to that version or "
        "a newer one, or make it again with this one"
    )
