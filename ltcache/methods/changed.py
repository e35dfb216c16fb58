"""What a method differs in from the entry of the catalogue whose name it has, for its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from ltcache.methods.catalogue import known_method
from ltcache.methods.settings import SMOOTH, SettingValues
from ltcache.methods.spec import Method
from ltcache.methods.stage import MethodStage

UNNAMED = ("optimisation.", "lr_factors.")
"""Beginnings of settings that say how a method is trained, not what it is."""


def named(method: Method, before: Method) -> Method:
    """Return the method with a name that says what was changed from the catalogue's entry.

    Args:
        before: what it was before the last change, for a method that is in no catalogue.
    """
    name = before.name.partition(" (")[0]
    base = known_method(name) or before
    return replace(method, **with_changes(base, _changes(method, base)))


def _changes(method: Method, base: Method) -> SettingValues:
    """Return what a method is that another one is not, as settings that would change it so."""
    kinds = [type(stage).__name__.lower() for stage in method.stages]
    if kinds != [type(stage).__name__.lower() for stage in base.stages]:
        return {"stages": kinds}
    found: SettingValues = {}
    for number, (stage, old) in enumerate(zip(method.stages, base.stages, strict=True)):
        later = {key for after in method.stages[number + 1 :] for key in after.settings()}
        for key, value in _stage_changes(stage, old).items():
            found[f"stages.{number}.{key}" if key in later else key] = value
    smooths = any(stage.smoothing_settings() for stage in method.stages)
    if smooths and all(map(_is_smooth, method.stages)):
        found = {k: v for k, v in found.items() if not k.endswith(f".{SMOOTH}")} | {SMOOTH: True}
    return {**found, **different_fields(method.feature, base.feature, "feature.")}


def _is_smooth(stage: MethodStage) -> bool:
    return all(stage.settings()[key] for key in stage.smoothing_settings())


def _stage_changes(stage: MethodStage, old: MethodStage) -> SettingValues:
    """Return the changed names, what is changed beside what follows from a new name, and what a
    grid chose before and nobody chooses now."""
    names = [key for key in stage.settings() if "." not in key]
    found = {n: getattr(stage, n) for n in names if getattr(stage, n) != getattr(old, n)}
    for name, value in found.items():
        old = old.with_setting(name, value)
    now, before = stage.settings(), old.settings()
    fixed = {
        key.replace("choose", name, 1)
        for key, grid in before.items()
        for name in stage.PARTS
        if key.startswith("choose.") and grid and not now.get(key)
    }
    found |= {key: now[key] for key in fixed if key in now}
    return found | {k: v for k, v in different(now, before).items() if not _is_empty_grid(k, v)}


def _is_empty_grid(key: str, value: Any) -> bool:
    return key.startswith("choose.") and not value


def with_changes(record: Any, changed: Mapping[str, Any]) -> SettingValues:
    """Return the name and the title of a recipe that is another one now, as ``replace`` takes them.

    Args:
        record: the recipe as it was, with its ``name`` and ``title``.
        changed: setting -> value, of what differs.
    """
    shown = ", ".join(f"{key}={shown_value(value)}" for key, value in changed.items())
    if not shown:
        return {"name": record.name, "title": record.title}
    return {"name": f"{record.name} ({shown})", "title": f"{record.title}, but with {shown}"}


def shown_value(value: Any) -> str:
    """Return a setting's value as ``-s`` takes it."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ",".join(map(shown_value, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"


def different(now: Mapping[str, Any], before: Mapping[str, Any]) -> SettingValues:
    """Return the settings of ``now`` whose value is another one before, but for :data:`UNNAMED`."""
    return {
        key: value
        for key, value in now.items()
        if not key.startswith(UNNAMED) and before.get(key) != value
    }


def different_fields(now: Any, before: Any, prefix: str) -> SettingValues:
    """Return the fields of a record that another one of its kind has otherwise."""
    values = asdict(before)
    return {
        f"{prefix}{f.name}": getattr(now, f.name)
        for f in fields(now)
        if getattr(now, f.name) != values[f.name]
    }
