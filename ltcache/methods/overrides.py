"""Changes to a method by dotted key: ``{"loss.tau": 0.5, "optimisation.epochs": 10}``.

Names are ``feature.*`` and, for the last training stage, ``head``, ``init``, ``loss``,
``objective``, ``sampler``, ``optimisation.*`` and the hyper-parameters ``head.*``, ``loss.*``,
``objective.*``, which are the keyword arguments of the class that is named.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from difflib import get_close_matches
from typing import Any

from ltcache.errors import UsageError
from ltcache.heads import HEADS
from ltcache.losses import LOSSES
from ltcache.methods.spec import FeatureSpec, Method, Optimisation, Train
from ltcache.objectives import OBJECTIVES
from ltcache.sampling import SAMPLERS

CATALOGUES: dict[str, Mapping[str, Any]] = {
    "head": HEADS,
    "loss": LOSSES,
    "objective": OBJECTIVES,
    "sampler": SAMPLERS,
}
_WITH_OPTIONS = ("head", "loss", "objective")


def hyper_parameters(kind: type) -> dict[str, Any]:
    """Return name -> default of the keyword-only arguments of a class."""
    parameters = inspect.signature(kind).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def known_overrides(method: Method) -> dict[str, Any]:
    """Return every key that :func:`override` takes for a method, with its present value."""
    stage = _last(method)
    known = {f"feature.{key}": value for key, value in asdict(method.feature).items()}
    known |= {name: getattr(stage, name) for name in (*CATALOGUES, "init")}
    for part in _WITH_OPTIONS:
        defaults = hyper_parameters(CATALOGUES[part][getattr(stage, part)])
        chosen = defaults | dict(getattr(stage, f"{part}_options"))
        known |= {f"{part}.{key}": value for key, value in chosen.items()}
    return known | {f"optimisation.{k}": v for k, v in asdict(stage.optimisation).items()}


def override(method: Method, overrides: Mapping[str, Any] | None) -> Method:
    """Return the method with some settings changed, and all hyper-parameters written out.

    Args:
        overrides: dotted key -> value; a text is read as the type of the present value.

    Raises:
        UsageError: an unknown key or name (the nearest is given), or a value that cannot be read.
    """
    overrides = dict(overrides or {})
    stage = _last(method)
    for part, catalogue in CATALOGUES.items():
        if part in overrides:
            name = overrides.pop(part)
            if name not in catalogue:
                raise UsageError(f"unknown {part} {name!r}; {_nearest(name, catalogue)}")
            changed: dict[str, Any] = {part: name}
            if part in _WITH_OPTIONS:
                changed[f"{part}_options"] = {}
            stage = replace(stage, **changed)
    method = replace(method, stages=(*method.stages[:-1], stage))
    values = known_overrides(method)
    for key, value in overrides.items():
        if key not in values:
            raise UsageError(f"method {method.name}: no setting {key!r}; {_nearest(key, values)}")
        values[key] = _read(key, value, _example(key, values[key]))
    return _with_values(method, stage, values)


def _with_values(method: Method, stage: Train, values: Mapping[str, Any]) -> Method:
    def under(prefix: str) -> dict[str, Any]:
        return {k[len(prefix) + 1 :]: v for k, v in values.items() if k.startswith(prefix + ".")}

    options: dict[str, Any] = {f"{part}_options": under(part) for part in _WITH_OPTIONS}
    optimisation = Optimisation(**under("optimisation"))
    stage = replace(stage, init=values["init"], optimisation=optimisation, **options)
    feature = FeatureSpec(**under("feature"))
    return replace(method, feature=feature, stages=(*method.stages[:-1], stage))


def _last(method: Method) -> Train:
    stage = method.stages[-1]
    if not isinstance(stage, Train):
        raise UsageError(f"method {method.name}: its last stage trains nothing")
    return stage


def _example(key: str, value: Any) -> Any:
    """Return a value of the type that a setting has, also where its default is None."""
    if value is not None or not key.startswith("optimisation."):
        return value
    annotated = {f.name: str(f.type) for f in fields(Optimisation)}[key.split(".")[1]]
    return 0 if annotated.startswith("int") else value


def _read(key: str, value: Any, example: Any) -> Any:
    if value is None or example is None:
        return value
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


def _nearest(key: str, known: Mapping[str, Any]) -> str:
    near = get_close_matches(str(key), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}known: {', '.join(known)}"
