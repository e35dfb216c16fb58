"""Records of other versions: what is filled in, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from ltcache.records import record_fields


@dataclass(frozen=True)
class ToolRecord:
    """A record with one field that earlier versions did not have."""

    name: str
    size: int = 0


def _read(plain: dict[str, Any]) -> ToolRecord:
    return ToolRecord(**record_fields(ToolRecord, plain, name="tool.json", newest=2, beside=["x"]))


def test_what_an_earlier_version_wrote_is_read() -> None:
    assert _read({"format": 1, "name": "saw", "x": 3}) == ToolRecord("saw")
    assert _read({"name": "saw", "size": 2}) == ToolRecord("saw", 2)


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"format": 3, "name": "saw"}, r"tool.json is of format 3, .* formats up to 2: a later"),
        ({"name": "saw", "edge": 1}, r"tool.json has edge, and ltcache .* upgrade to that version"),
        ({"format": 2, "size": 1}, "tool.json lacks name"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_remedy(
    plain: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _read(plain)
