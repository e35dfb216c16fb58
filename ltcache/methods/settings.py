"""Settings by dotted key, of methods and of fine-tunings: listed, looked up, read and changed.

A setting is a field of a record (``optimisation.lr``), an entry of a mapping (``lr_factors.head``)
or a hyper-parameter of what a field names in a catalogue (``loss.tau``), which are the keyword
arguments of the class that is named.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any

from ltcache.errors import UsageError, did_you_mean
from ltcache.heads import keyword_arguments

SettingValues = dict[str, Any]
"""Dotted key of a setting, or name of a hyper-parameter -> its value."""

SMOOTH = "smooth_prior"
"""A setting that reaches whatever takes a class prior, in all stages."""


def hyper_parameters(kind: Callable[..., Any]) -> SettingValues:
    """Return name -> default of the keyword-only arguments of a class that a user may set."""
    given = {"residual", *getattr(kind, "needs", ())}  # by the stages before
    return {k: v for k, v in keyword_arguments(kind).items() if k not in given}


def dotted(name: str, value: Any) -> SettingValues:
    """Return the settings that a field holds: of a record or a mapping one for each entry."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if not isinstance(value, Mapping):
        return {name: value}
    return {f"{name}.{key}": entry for key, entry in value.items()}


def in_turn(overrides: Mapping[str, Any] | None, names: Collection[str]) -> SettingValues:
    """Return overrides in the order in which they are read.

    Args:
        names: keys, or their last parts, that decide which hyper-parameters there are; these come
            first. ``min_steps`` comes last, after the epochs that reset it.
    """
    given = dict(overrides or {})
    last = {key: key.rpartition(".")[2] for key in given}
    first = {key for key in given if key in names or last[key] in names}
    order = sorted(given, key=lambda key: (key not in first, last[key] == "min_steps"))
    return {key: given[key] for key in order}


def unknown_setting(recipe: str, key: str, known: Mapping[str, Any]) -> UsageError:
    """Return the refusal of a key that a recipe, such as ``method ce``, does not have."""
    return UsageError(f"{recipe}: no setting {key!r}; {nearest(key, known)}")


def require_name(what: str, name: Any, catalogue: Mapping[str, Any]) -> None:
    """Refuse a name that a catalogue does not have."""
    if not isinstance(name, str) or name not in catalogue:
        raise UsageError(f"unknown {what} {name!r}; {nearest(name, catalogue)}")


def nearest(key: str, known: Mapping[str, Any]) -> str:
    """Return in words the known name that an unknown one is nearest to, and all of them."""
    hint = did_you_mean(key, known)
    return f"{hint}{' ' if hint else ''}known: {', '.join(known)}"


def several(value: Any) -> tuple[Any, ...]:
    """Return the values that a user gave for something of which there may be several."""
    if isinstance(value, str):
        return tuple(value.split(","))
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def read_names(value: Any) -> tuple[Any, ...]:
    """Return names that are given in a row or with commas; ``none`` and None are no names."""
    names = [name.strip() if isinstance(name, str) else name for name in several(value)]
    return tuple(name for name in names if name not in (None, "", "none"))


def read_setting(key: str, value: Any, example: Any) -> Any:
    """Return a value as the type of the present one; ``none`` is None unless that is a text.

    Raises:
        UsageError: it cannot be read so.
    """
    if isinstance(value, str) and value.lower() == "none" and not isinstance(example, str):
        return None  # a name may be "none", such as feature.transform's
    if value is None:
        return value
    if example is None:
        return _number(value)
    if isinstance(example, (list, tuple)):
        first = example[0] if example else 0.0
        return type(example)(read_setting(key, entry, first) for entry in several(value))
    try:
        if isinstance(example, bool):
            if isinstance(value, str):
                return {"true": True, "false": False}[value.lower()]
            if not isinstance(value, bool):
                raise ValueError
            return value
        if isinstance(example, int) and float(value) != int(float(value)):
            raise ValueError
        return int(float(value)) if isinstance(example, int) else type(example)(value)
    except (KeyError, TypeError, ValueError):
        raise _unreadable(key, value, type(example).__name__) from None


def _unreadable(key: str, value: Any, kind: str) -> UsageError:
    return UsageError(f"{key}={value!r} cannot be read as {kind}")


def _number(value: Any) -> Any:
    """Return a text as the number that it is, if it is one."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


_EXAMPLES: Mapping[str, Any] = {"int": 0, "float": 0.0, "str": ""}


def with_entry(holder: Any, key: str, value: Any, present: Any = None, name: str = "") -> Any:
    """Return a record or a mapping with one entry changed.

    Epochs that somebody names are meant: they take ``min_steps`` away.

    Args:
        key: dotted, for messages. value: a text is read as the type of the ``present`` one, or, of
            a record, as the type of its field.
        name: of the entry; by default what follows the first dot of the key.

    Raises:
        UsageError: the value cannot be read, or the record refuses it.
    """
    name = name or key.partition(".")[2] or key
    if isinstance(holder, Mapping):
        return {**holder, name: read_setting(key, value, present)}
    changes = {name: _read_field(holder, name, key, value)}
    if name == "epochs" and changes[name] is not None:
        changes["min_steps"] = 0
    try:
        return replace(holder, **changes)
    except UsageError:
        raise
    except (TypeError, ValueError):
        raise UsageError(f"{key}={value!r} cannot be meant") from None


def _read_field(holder: Any, name: str, key: str, value: Any) -> Any:
    """Return a value as the type that a record's field has, also where it is None at present."""
    annotated = {f.name: str(f.type) for f in fields(holder)}[name]
    kinds = [kind.strip() for kind in annotated.split("|")]
    if "None" in kinds and str(value).lower() == "none":
        return None
    present = getattr(holder, name)
    if present is None and len(kinds) == 2:
        present = _EXAMPLES.get(kinds[0])
    read = read_setting(key, value, present)
    if read is None and present is not None and not annotated.startswith("Literal"):
        raise _unreadable(key, value, type(present).__name__)
    return read
