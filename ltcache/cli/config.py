"""``--config FILE``: values for a command's options from YAML or JSON.

Keys are the options' names as they are typed, without the dashes (``set``, ``max-count``), or as
the command's function calls them (``settings``). A flag takes true or false, an option that may be
repeated takes a list, and one of ``KEY=VALUE`` takes a mapping, which may be nested.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from ltcache.errors import UsageError, did_you_mean

OF_CONFIG = "ltcache.config"
"""Key of a click context under which lie the values that a file gave, by parameter."""


def read_config(path: Path, command: click.Command, context: click.Context) -> Mapping[str, Any]:
    """Return parameter -> value of the options that a file gives.

    Raises:
        UsageError: unreadable, an unknown option, one given twice, or a value of another type; the
            message names the file, the key and what is expected.
    """
    known = dict(_names(command))
    result: dict[str, Any] = {}
    for key, value in _content(path).items():
        check_known(key.replace("_", "-"), list(known), f"{path}: option")
        param, is_off = known[key.replace("_", "-")]
        name = param.name or ""
        if name in result:
            raise UsageError(f"{path}: {key}: --{_typed(param)} is given twice")
        result[name] = _value(param, value, f"{path}: {key}", is_off)
        _convert(param, result[name], context, f"{path}: {key}")
    return result


def check_known(name: str, known: list[str], what: str) -> None:
    """Refuse an unknown name and suggest the nearest known one."""
    if name not in known:
        hint = did_you_mean(name, known, lead="; ") or f"; known: {', '.join(sorted(known))}"
        raise UsageError(f"{what} {name!r} is unknown{hint}")


def _names(command: click.Command) -> Iterator[tuple[str, tuple[click.Option, bool]]]:
    """Yield the names of each option, and whether a name switches its flag off."""
    options = [p for p in command.params if isinstance(p, click.Option) and p.name != "config"]
    for param in options:  # other options' own names come before these
        yield (param.name or "").replace("_", "-"), (param, False)
    for param in options:
        yield from ((opt.lstrip("-"), (param, False)) for opt in param.opts)
        yield from ((opt.lstrip("-"), (param, True)) for opt in param.secondary_opts)


def _typed(param: click.Option) -> str:
    return param.opts[-1].lstrip("-")


class _UniqueLoader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, of which YAML keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"{key!r} is there twice{node.start_mark}")
        return super().construct_mapping(node, deep)


def _content(path: Path) -> Mapping[str, Any]:
    try:
        values = yaml.load(path.read_bytes(), _UniqueLoader)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as YAML: {error}") from None
    if not isinstance(values, Mapping):
        raise UsageError(f"{path}: expected option: value lines")
    return {str(key): value for key, value in values.items()}


def _value(param: click.Option, value: Any, where: str, is_off: bool) -> Any:
    """Return a value of a file as click takes it."""
    if param.is_flag:
        if not isinstance(value, bool):
            raise _expected(where, "true or false", value)
        return value != is_off
    if param.count:
        if not isinstance(value, int):
            raise _expected(where, "a whole number", value)
        return int(value)
    if not param.multiple:
        return _scalar(value, where, _wanted(param))
    if isinstance(value, Mapping) and _is_keyed(param):
        return [f"{key}={text}" for key, text in _flat(value, where)]
    values = value if isinstance(value, list) else [value]
    return [_scalar(item, where, f"{_wanted(param)}, or a list of such") for item in values]


def _is_keyed(param: click.Option) -> bool:
    return (param.metavar or "").startswith("KEY=")


def _wanted(param: click.Option) -> str:
    """Return in words what an option takes."""
    if isinstance(param.type, click.Choice):
        return "one of " + ", ".join(map(str, param.type.choices))
    if isinstance(param.type, click.types.IntParamType):
        return "a whole number"
    if isinstance(param.type, click.types.FloatParamType):
        return "a number"
    if _is_keyed(param):
        return f"a mapping, {param.metavar}"
    return "a path" if isinstance(param.type, click.Path) else "a text"


def _scalar(value: Any, where: str, wanted: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _expected(where, wanted, value)
    return value


def _expected(where: str, wanted: str, value: Any) -> UsageError:
    try:
        found = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        found = f"{value} ({type(value).__name__})"
    return UsageError(f"{where}: expected {wanted}, found {found[:100]}")


def _flat(values: Mapping[Any, Any], where: str, above: str = "") -> Iterator[tuple[str, str]]:
    """Yield dotted key and text of a mapping, which may be nested: ``loss: {tau: 0.5}``."""
    for key, value in values.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, where, f"{name}.")
        else:
            yield name, _text(value, f"{where}: {name}")


def _text(value: Any, where: str) -> str:
    """Return a value as ``-s KEY=VALUE`` writes it."""
    if isinstance(value, list):
        return ",".join(_text(item, where) for item in value)
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(_scalar(value, where, "a text, a number, true, false, null or a list of such"))


def _convert(param: click.Option, value: Any, context: click.Context, where: str) -> None:
    """Refuse what click would refuse later, when nothing tells any more that a file gave it."""
    try:
        param.type_cast_value(context, value)
    except click.BadParameter as error:
        raise UsageError(f"{where}: {error.message}") from None
