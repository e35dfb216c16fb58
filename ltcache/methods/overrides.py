"""Changes to a method by dotted key: ``{"loss.tau": 0.5, "optimisation.epochs": 10}``.

Names are ``feature.*`` and, of a stage, what it is made of (``head``, ``loss``, ``sampler``,
``fusion``, ...), the hyper-parameters of each part (``head.scale``, ``loss.tau``), which are the
keyword arguments of the class that is named, ``optimisation.*``, ``lr_factors.*`` and ``choose.*``.
A name acts on the last stage that has it; ``stages.0.loss`` on the first stage. ``smooth_prior``
reaches whatever takes a class prior, in all stages: a class without rows is missing in each.

A method that is another one now says so: its name becomes ``ce (loss=seesaw)``. How it is optimised
(``optimisation.*``) is no part of the name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from ltcache.errors import UsageError, did_you_mean
from ltcache.methods.changed import named
from ltcache.methods.settings import (
    PARTS,
    SMOOTH,
    CatalogueField,
    known_overrides,
    options_of,
    settings,
    smoothing_settings,
)
from ltcache.methods.spec import (
    FeatureSpec,
    Method,
    Optimisation,
    Stage,
    Train,
)


def override(method: Method, overrides: Mapping[str, Any] | None) -> Method:
    """Return the method with some settings changed, and all hyper-parameters written out.

    Args:
        overrides: dotted key -> value; a text is read as the type of the present value.

    Raises:
        UsageError: an unknown key or name (the nearest is given), or a value that cannot be read.
    """
    stages, feature = list(method.stages), asdict(method.feature)
    # names first: they decide which hyper-parameters there are
    for key in sorted(overrides or {}, key=_turn):
        value = (overrides or {})[key]
        if key == SMOOTH and any(map(smoothing_settings, stages)):
            stages = [_smoothed(stage, value) for stage in stages]
            continue
        name = key.removeprefix("feature.")
        if key.startswith("feature.") and name in feature:
            feature[name] = read_setting(key, value, feature[name])
            continue
        number, name = _find(method, stages, key)
        stages[number] = _changed(stages[number], name, value)
    written = tuple(_written_out(stage) for stage in stages)
    return named(replace(method, feature=FeatureSpec(**feature), stages=written), method)


def _smoothed(stage: Stage, value: Any) -> Stage:
    for key in smoothing_settings(stage):
        stage = _changed(stage, key, value)
    return stage


_NAMES = frozenset(name for parts in PARTS.values() for name in parts)


def _turn(key: str) -> tuple[bool, bool]:
    """Return when a key is read: names first, and ``min_steps`` after the epochs that reset it."""
    name = key.rpartition(".")[2]
    return name not in _NAMES, name == "min_steps"


def _find(method: Method, stages: Sequence[Stage], key: str) -> tuple[int, str]:
    """Return the number of the stage that a key is for, and the key within it."""
    first, _, rest = key.partition(".")
    number, _, name = rest.partition(".")
    named = first == "stages" and number.isdigit() and int(number) < len(stages)
    if named and name in settings(stages[int(number)]):
        return int(number), name
    for index in range(len(stages) - 1, -1, -1):
        if key in settings(stages[index]):
            return index, key
    known = known_overrides(replace(method, stages=tuple(stages)))
    raise UsageError(f"method {method.name}: no setting {key!r}; {nearest(key, known)}")


def _changed(stage: Any, key: str, value: Any) -> Any:
    """Return a stage with one setting changed."""
    present = settings(stage)[key]
    first, _, rest = key.partition(".")
    parts = PARTS.get(type(stage), {})
    if key in parts:
        return _renamed(stage, key, parts[key], value)
    if first == "optimisation" and isinstance(stage, Train):
        changes = {rest: read_setting(key, value, _example(key, present))}
        if rest == "epochs" and changes[rest] is not None:
            changes["min_steps"] = 0  # epochs that somebody names are meant
        return replace(stage, optimisation=replace(stage.optimisation, **changes))
    if first == "choose":
        return _with_grid(stage, rest, value)
    if not rest:
        return replace(stage, **{key: value})
    field = parts[first].options if first in parts else first
    field = field if hasattr(stage, field or "") else "options"
    changed = {
        field or "": {**getattr(stage, field or ""), rest: read_setting(key, value, present)}
    }
    if rest in getattr(stage, "choose", {}):  # a value that is given is not chosen
        changed["choose"] = {k: v for k, v in stage.choose.items() if k != rest}
    return replace(stage, **changed)


def _renamed(stage: Any, name: str, part: CatalogueField, value: Any) -> Any:
    """Return a stage with another name in one of its parts, whose options then are the defaults."""
    if name == "fusion" and isinstance(value, str):
        value = tuple(text for text in value.split(",") if text not in ("", "none"))
    if name == "partner" and value in ("", "none"):
        value = None
    for kind in value if isinstance(value, tuple) else (value,):
        if kind is not None and kind not in part.catalogue:
            raise UsageError(f"unknown {name} {kind!r}; {nearest(kind, part.catalogue)}")
    if value == getattr(stage, name):
        return stage
    changed: dict[str, Any] = {name: value}
    if part.options is not None:
        changed[part.options] = {}
    return replace(stage, **changed)


def _written_out(stage: Any) -> Any:
    parts = PARTS.get(type(stage), {}).items()
    changed = {p.options: options_of(stage, name, p) for name, p in parts if p.options is not None}
    return replace(stage, **changed)


def _with_grid(stage: Any, name: str, values: Any) -> Any:
    """Return a stage that chooses a hyper-parameter from some values; from none: it is fixed."""
    ((part_name, part),) = PARTS[type(stage)].items()
    example = options_of(stage, part_name, part)[name]
    texts = values.split(",") if isinstance(values, str) else values
    grid = tuple(read_setting(f"choose.{name}", text, example) for text in texts)
    others = {k: v for k, v in stage.choose.items() if k != name}
    return replace(stage, choose={**others, name: grid} if grid else others)


def _example(key: str, value: Any) -> Any:
    """Return a value of the type that a setting has, also where its default is None."""
    if value is not None:
        return value
    annotated = {f.name: str(f.type) for f in fields(Optimisation)}[key.rpartition(".")[2]]
    return 0 if annotated.startswith("int") else value


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
        kind = type(example).__name__
        raise UsageError(f"{key}={value!r} cannot be read as {kind}") from None


def _number(value: Any) -> Any:
    """Return a text as the number that it is, if it is one."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def nearest(key: str, known: Mapping[str, Any]) -> str:
    """Return in words the known name that an unknown one is nearest to, and all of them."""
    hint = did_you_mean(key, known)
    return f"{hint}{' ' if hint else ''}known: {', '.join(known)}"
