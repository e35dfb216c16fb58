"""A short ``repr`` for records that hold arrays, tables or networks."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

_LONGEST = 240  # characters of a record
_VALUE = 60  # of one of its values

Record = TypeVar("Record", bound=type)


def one_line(kind: Record) -> Record:
    """Give a dataclass a ``repr`` of one line: arrays by shape, collections by size.

    Stands above ``@dataclass``; fields with ``repr=False`` are left out.
    """
    kind.__repr__ = _shown  # type: ignore[method-assign, assignment]
    return kind


def _shown(record: Any) -> str:
    values = [f"{f.name}={brief(getattr(record, f.name))}" for f in fields(record) if f.repr]
    return cut(f"{type(record).__name__}({', '.join(values)})", _LONGEST)


def brief(value: Any) -> str:
    """Return a value in a few words."""
    if value is None or isinstance(value, (bool, int, str, Path)):
        return cut(str(value) if isinstance(value, Path) else repr(value), _VALUE)
    if isinstance(value, float):
        return f"{value:g}"
    if hasattr(value, "shape"):
        shape = "x".join(map(str, value.shape))
        return f"{getattr(value, 'dtype', type(value).__name__)} {shape}".replace("torch.", "")
    if isinstance(value, (Mapping, Sequence, Set)):
        return _collection(value)
    name = getattr(value, "name", None)
    return f"{type(value).__name__} {name!r}" if isinstance(name, str) else type(value).__name__


def _collection(value: Any) -> str:
    items = value.values() if isinstance(value, Mapping) else value
    plain = len(value) <= 8 and all(isinstance(v, (bool, int, float, str)) for v in items)
    text = repr(value) if plain else ""
    return text if plain and len(text) <= _VALUE else f"<{len(value)} entries>"


def cut(text: str, most: int) -> str:
    """Return a text of at most so many characters, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 4]}...{text[-1]}"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 image``, ``2 images``, ``2 classes``."""
    return f"{number} {noun}" + ("" if number == 1 else "es" if noun.endswith("s") else "s")


def html_table(caption: str, heading: Sequence[str], table: Sequence[Sequence[object]]) -> str:
    """Return a small table as HTML with everything escaped, for ``_repr_html_`` in notebooks."""

    def line(cells: Sequence[object], tag: str) -> str:
        inner = "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells)
        return f"<tr>{inner}</tr>"

    body = "".join([line(heading, "th"), *(line(cells, "td") for cells in table)])
    return f"<table><caption>{html.escape(caption)}</caption>{body}</table>"
