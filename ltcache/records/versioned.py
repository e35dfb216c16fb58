"""Records as values: frozen dataclasses to JSON, and back from JSON that some version has written.

A record's JSON is its fields by name. Records within records, tuples, mappings and paths are
converted by the types of the fields; a record whose JSON has another shape has its own ``to_dict``
and ``from_dict``, which are asked wherever it stands.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from ltcache import __version__
from ltcache.records.json_value import JsonObject, JsonValue

T = TypeVar("T")
_Reader = Callable[[Any, str], Any]


class JsonRecord:
    """Base of frozen dataclasses that are written as JSON; :func:`read_record` reads them."""

    def to_dict(self) -> JsonObject:
        """Return plain JSON: the fields by name, in their order."""
        return _plain_fields(self)


def plain_json(value: Any) -> JsonValue:
    """Return a value as JSON has it, records in it as objects."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    if is_dataclass(value):
        own = getattr(value, "to_dict", None)
        return _plain_fields(value) if own is None else own()
    return str(value) if isinstance(value, Path) else value  # json refuses what it cannot say


def _plain_fields(record: Any) -> JsonObject:
    return {field.name: plain_json(getattr(record, field.name)) for field in fields(record)}


def read_record(
    kind: type[T],
    plain: Mapping[str, Any],
    *,
    name: str,
    newest: int = 1,
    beside: Collection[str] = (),
) -> T:
    """Return a record from JSON.

    Args:
        kind: its dataclass. plain: what stands in the file.
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
    known = fields(typing.cast(Any, kind))
    names = [field.name for field in known if field.name in plain]
    if unknown := sorted(set(plain) - set(names) - {"format", *beside}):
        raise ValueError(f"{name} has {', '.join(unknown)}, and {_reads('no such key')}")
    needed = {field.name for field in known if field.default is field.default_factory is MISSING}
    if missing := sorted(needed - set(names)):
        raise ValueError(f"{name} lacks {', '.join(missing)}")
    readers = _readers(typing.cast(Any, kind))  # a type is hashable
    inside = f"{name}{'.' if ', ' in name else ', '}"
    return kind(**{field: readers[field](plain[field], inside + field) for field in names})


@cache
def _readers(kind: Any) -> dict[str, _Reader]:
    return {name: _reader(hint) for name, hint in typing.get_type_hints(kind).items()}


def _as_it_is(value: Any, name: str) -> Any:
    return value


def _reader(hint: Any) -> _Reader:
    """Return what makes a field's value of a value of JSON; ``name`` says where that stands."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        arms = [arm for arm in inner if arm is not types.NoneType]
        of = _reader(arms[0]) if len(arms) == 1 else _as_it_is
        return lambda value, name: None if value is None else of(value, name)
    if origin is tuple:
        return _tuple_reader(inner)
    if origin in (dict, Mapping):
        key, of = inner[0], _reader(inner[1])
        return lambda value, name: {key(k): of(item, name) for k, item in value.items()}
    if isinstance(hint, type) and is_dataclass(hint):
        own = getattr(hint, "from_dict", None)
        return lambda value, name: own(value) if own else read_record(hint, value, name=name)
    return (lambda value, name: Path(value)) if hint is Path else _as_it_is


def _tuple_reader(inner: tuple[Any, ...]) -> _Reader:
    if inner[-1] is not ...:
        several = [_reader(hint) for hint in inner]
        return lambda value, name: tuple(
            of(item, name) for of, item in zip(several, value, strict=True)
        )
    of = _reader(inner[0])
    if of is _as_it_is:  # one for each class, perhaps
        return lambda value, name: tuple(value)
    return lambda value, name: tuple(of(item, name) for item in value)


def _reads(what: str) -> str:
    return (
        f"ltcache {__version__} reads {what}: a later version wrote it; upgrade to that version or "
        "a newer one, or make it again with this one"
    )
