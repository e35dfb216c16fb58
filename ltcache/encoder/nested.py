"""Weights that lie deeper in a file than a model is saved alone: training checkpoints of others."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ltcache.errors import EncoderError
from ltcache.records import one_line

_DEPTH = 3
_SHOWN = 8


@one_line
@dataclass(frozen=True, eq=False)
class TensorTable:
    """Tensors by name, and where they stand in a file: ``["ema"]["model"]``, empty at its top."""

    place: str
    tensors: Mapping[str, torch.Tensor]


def read_content(path: Path) -> Any:
    """Return what a file holds, tensors only; raises whatever torch or safetensors do."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def find_weights(content: Any, expected: Collection[str], path: Path) -> TensorTable | None:
    """Return the table of a file's content that has most of a model's names, or None.

    A prefix that all names share (``module.``, ``model.``) is left out.

    Args:
        expected: names of the model's tensors.

    Raises:
        EncoderError: several tables have them, such as averaged weights beside others.
    """
    found = []
    for table in tables_of(content):
        bare = _without_prefix(table.tensors, expected)
        if 2 * _known(bare, expected) > len(expected):
            found.append(TensorTable(table.place, bare))
    if len(found) > 1:
        places = " and ".join(table.place or "its top" for table in found)
        raise EncoderError(
            f"{path} holds several sets of weights, at {places}: save the one that is meant by "
            f"itself; {how_to_save(path, found[-1].place)}"
        )
    return found[0] if found else None


def tables_of(content: Any, place: str = "", depth: int = _DEPTH) -> Iterator[TensorTable]:
    """Yield the tables of tensors in a file's content, which may be nested."""
    if not isinstance(content, Mapping):
        return
    named = {key: value for key, value in content.items() if isinstance(key, str)}
    tensors = {key: value for key, value in named.items() if isinstance(value, torch.Tensor)}
    if tensors and len(tensors) == len(content):
        yield TensorTable(place, tensors)
    elif depth:
        for key, value in named.items():
            yield from tables_of(value, f'{place}["{key}"]', depth - 1)


def describe_content(content: Any) -> str:
    """Return in words what a file holds in place of weights."""
    if not isinstance(content, Mapping):
        return f"it holds a {type(content).__name__}"
    keys = [str(key) for key in content]
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"it holds {', '.join(keys[:_SHOWN])}{more}" if keys else "it holds nothing"


def how_to_save(path: Path, place: str = "", *, trusted: bool = False) -> str:
    """Return the line of Python that saves one table of a file by itself.

    Args:
        trusted: whether it has to run code of the file.
    """
    only = "False" if trusted else "True"
    return (
        f"torch.save(torch.load({str(path)!r}, map_location='cpu', weights_only={only})"
        f"{place}, 'weights.pt')"
    )


def _without_prefix(
    tensors: Mapping[str, torch.Tensor], expected: Collection[str]
) -> dict[str, torch.Tensor]:
    """Return tensors without the prefixes that all names share and the model does not know."""
    bare = dict(tensors)
    while True:
        first = {name.partition(".")[0] for name in bare}
        shorter = {name.partition(".")[2]: value for name, value in bare.items()}
        if len(first) > 1 or "" in shorter or len(shorter) < len(bare):
            return bare
        if _known(bare, expected) >= _known(shorter, expected) and _known(bare, expected):
            return bare
        bare = shorter


def _known(names: Collection[str], expected: Collection[str]) -> int:
    """Return how many names a model knows; of a text tower also without ``text.``."""
    return sum(name in expected or f"text.{name}" in expected for name in names)
