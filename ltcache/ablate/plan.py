"""What is compared: the product of methods, fusions and settings."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ltcache.errors import UsageError
from ltcache.fit import combinations
from ltcache.methods import (
    FUSED_FORMS,
    Method,
    has_setting,
    method_by_name,
    override,
    setting_of_none,
    with_fusion,
)
from ltcache.records import one_line

Grid = Mapping[str, Sequence[Any]]


@one_line
@dataclass(frozen=True)
class AblationSetting:
    """One line of an ablation.

    Args:
        name: the method's, with the settings of the grid: ``logit-adjustment, loss.tau=0.5``; one
            that is another method in all lines says so: ``logit-adjustment (loss=seesaw)``.
        method: with every setting written out. overrides: what the grid changed.
        given: what the grid and the caller changed; tuning does not try other views in its place.
    """

    name: str
    method: Method
    overrides: Mapping[str, Any]
    given: Mapping[str, Any] = field(default_factory=dict)


def settings_of(
    methods: Sequence[str | Method],
    grid: Grid | None = None,
    fusion: Sequence[str] = ("none",),
    overrides: Mapping[str, Any] | None = None,
) -> tuple[list[AblationSetting], list[str]]:
    """Return the product of choices, each once, and notes on what a method lacks.

    Args:
        methods: names or methods, in the order of the table.
        grid: dotted key -> values; a method without the key is taken once, without it.
        fusion: ``none`` for the method itself, another name F for ``METHOD+F``.
        overrides: dotted key -> value for every method that has it.

    Raises:
        UsageError: an unknown method, a setting or fusion that none of the methods has, a value
            that cannot be read, or two methods of one name.
    """
    notes: list[str] = []
    bases = _with_fusions([method_by_name(m) if isinstance(m, str) else m for m in methods],
                          fusion, notes)  # fmt: skip
    choices = {key: tuple(values) for key, values in (grid or {}).items()}
    fixed = {key: (value,) for key, value in (overrides or {}).items() if key not in choices}
    found: dict[str, AblationSetting] = {}
    missing: dict[str, list[str]] = {key: [] for key in (*choices, *fixed)}
    for base in bases:
        for changed in combinations(choices | fixed):
            taken, lacks = _taken(base, changed)
            shown = {key: value for key, value in taken.items() if key in choices}
            same = {key: value for key, value in taken.items() if key not in choices}
            grown = [f"{key}={value}" for key, value in shown.items()]
            name = ", ".join([_named(base, same), *grown])
            found.setdefault(name, AblationSetting(name, override(base, taken), shown, taken))
            for key in lacks:
                if base.name not in missing[key]:
                    missing[key].append(base.name)
    for key, lacking in missing.items():
        if len(lacking) == len(bases) and not any(key in s.overrides for s in found.values()):
            raise setting_of_none(bases, key)
        if lacking:
            notes.append(f"{key} is no setting of {', '.join(lacking)}: left out there")
    return list(found.values()), notes


def _with_fusions(
    methods: Sequence[Method], fusion: Sequence[str], notes: list[str]
) -> list[Method]:
    """Return every method with every fusion that there is for it, each once."""
    found: dict[str, Method] = {}
    used: set[str] = set()
    refused: list[str] = []
    for method, name in itertools.product(methods, fusion):
        try:
            fused = method if name == "none" else with_fusion(method, name)
        except UsageError as error:
            if f"+{name}" not in method.name:
                refused.append(str(error))
            continue
        used.add(name)
        if override(found.setdefault(fused.name, fused), None) != override(fused, None):
            raise UsageError(
                f"two different methods are called {fused.name!r}, which is one line of a table: "
                "give one of them a name of its own (dataclasses.replace)"
            )
    for name in fusion:
        if name not in used:
            why = "; ".join(refused) or f"known: none, {', '.join(FUSED_FORMS)}"
            raise UsageError(f"none of the methods has a form with fusion {name!r}: {why}")
    notes += [f"{text}; left out" for text in refused]
    return list(found.values())


def _named(base: Method, same: Mapping[str, Any]) -> str:
    """Return the name of a method with the settings that are the same in all lines, if it can be
    had without those of the grid, on which they may depend."""
    try:
        return override(base, same).name
    except UsageError:
        return base.name


def _taken(method: Method, changed: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """Return what a method has of some settings, and the keys that it lacks.

    Names come first: ``head=cosine`` decides that there is a ``head.scale``.
    """
    taken: dict[str, Any] = {}
    lacks: list[str] = []
    for key in sorted(changed, key=lambda key: key.count(".")):
        if has_setting(override(method, taken), key):
            taken[key] = changed[key]
        else:
            lacks.append(key)
    return {key: taken[key] for key in changed if key in taken}, lacks
