"""Records of other versions: what is filled in, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ltcache.records import JsonObject, JsonRecord, plain_json, read_record


@dataclass(frozen=True)
class ToolRecord:
    """A record with one field that earlier versions did not have."""

    name: str
    size: int = 0


def _read(plain: dict[str, Any]) -> ToolRecord:
    return read_record(ToolRecord, plain, name="tool.json", newest=2, beside=["x"])


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


@dataclass(frozen=True)
class BoxRecord(JsonRecord):
    """A record with everything that a field may be."""

    first: ToolRecord
    place: Path
    tools: tuple[ToolRecord, ...] = ()
    sizes: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    spare: ToolRecord | None = None
    shape: int | tuple[int, ...] = 1
    lid: LidRecord | None = None


@dataclass(frozen=True)
class LidRecord(JsonRecord):
    """A record whose JSON has another shape."""

    colour: str

    def to_dict(self) -> JsonObject:
        return {"paint": self.colour}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> LidRecord:
        return cls(plain["paint"])


def test_a_record_is_itself_after_a_trip_through_json() -> None:
    saw = ToolRecord("saw", 2)
    box = BoxRecord(saw, Path("a/b"), (saw,), {3: (0.5, 1.0)}, saw, 4, LidRecord("red"))
    plain = json.loads(json.dumps(box.to_dict()))
    assert plain == {
        "first": {"name": "saw", "size": 2},
        "place": "a/b",
        "tools": [{"name": "saw", "size": 2}],
        "sizes": {"3": [0.5, 1.0]},
        "spare": {"name": "saw", "size": 2},
        "shape": 4,
        "lid": {"paint": "red"},
    }
    assert read_record(BoxRecord, plain, name="box.json") == box
    assert read_record(BoxRecord, {"first": plain["first"], "place": "c"}, name="box.json") == (
        BoxRecord(saw, Path("c"))
    )
    assert plain_json([box, 1])[0] == box.to_dict()  # type: ignore[index]


def test_a_record_within_another_says_where_it_stands() -> None:
    plain = {"first": {"name": "saw", "edge": 1}, "place": "c"}
    with pytest.raises(ValueError, match=r"^box.json, first has edge, and ltcache"):
        read_record(BoxRecord, plain, name="box.json")
    with pytest.raises(ValueError, match=r"^box.json, first lacks name"):
        read_record(BoxRecord, {"first": {}, "place": "c"}, name="box.json")
