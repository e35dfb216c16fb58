"""What JSON can say, as a type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

JsonValue: TypeAlias = (
    bool | int | float | str | Sequence["JsonValue"] | Mapping[str, "JsonValue"] | None
)
"""A value that JSON can say; tuples and lists are its arrays."""

JsonObject: TypeAlias = dict[str, JsonValue]
"""A JSON object that is being made: what is written into a file, hashed or printed."""
