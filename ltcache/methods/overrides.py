"""Changes to a method by dotted key: ``{"loss.tau": 0.5, "optimisation.epochs": 10}``.

Names are ``feature.*`` and, of a stage, what it is made of (``head``, ``loss``, ``sampler``,
``fusion``, ...), the hyper-parameters of each part (``head.scale``, ``loss.tau``), which are the
keyword arguments of the class that is named, ``optimisation.*``, ``lr_factors.*`` and ``choose.*``.
A name acts on the last stage that has it; ``stages.0.loss`` on the first stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

from ltcache.adjustments import ADJUSTMENTS, WEIGHT_TRANSFORMS
from ltcache.errors import UsageError
from ltcache.fusion import FUSIONS
from ltcache.heads import HEADS
from ltcache.heads.base import hyper_parameters as keyword_arguments
from ltcache.losses import LOSSES
from ltcache.methods.spec import (
    Adjust,
    FeatureSpec,
    Method,
    Optimisation,
    Solve,
    Stage,
    Train,
    Transform,
)
from ltcache.objectives import OBJECTIVES
from ltcache.sampling import SAMPLERS


@dataclass(frozen=True)
class Part:
    """A field of a stage that names something in a catalogue.

    Args:
        catalogue: name -> class. options: the stage's field of its hyper-parameters, or None.
    """

    catalogue: Mapping[str, Any]
    options: str | None = None


PARTS: Mapping[type[Stage], Mapping[str, Part]] = {
    Train: {
        "head": Part(HEADS, "head_options"),
        "loss": Part(LOSSES, "loss_options"),
        "objective": Part(OBJECTIVES, "objective_options"),
        "fusion": Part(FUSIONS, "fusion_options"),
        "sampler": Part(SAMPLERS),
        "partner": Part(SAMPLERS),
    },
    Solve: {"head": Part(HEADS, "head_options")},
    Transform: {"transform": Part(WEIGHT_TRANSFORMS, "options")},
    Adjust: {"adjustment": Part(ADJUSTMENTS, "options")},
}


def hyper_parameters(kind: Callable[..., Any]) -> dict[str, Any]:
    """Return name -> default of the keyword-only arguments of a class that a user may set."""
    given = {"residual", *getattr(kind, "needs", ())}  # by the stages before
    return {k: v for k, v in keyword_arguments(kind).items() if k not in given}


def known_overrides(method: Method) -> dict[str, Any]:
    """Return every bare key that :func:`override` takes for a method, with its present value."""
    known = {f"feature.{key}": value for key, value in asdict(method.feature).items()}
    for stage in method.stages:
        known |= settings(stage)
    return known


def settings(stage: Stage) -> dict[str, Any]:
    """Return every setting of a stage with its present value."""
    found: dict[str, Any] = {}
    for name, part in PARTS.get(type(stage), {}).items():
        found[name] = getattr(stage, name)
        if part.options is not None:
            found |= {f"{name}.{k}": v for k, v in _options(stage, name, part).items()}
    if isinstance(stage, Train):
        found["init"] = stage.init
        found |= {f"lr_factors.{k}": v for k, v in stage.lr_factors.items()}
        found |= {f"optimisation.{k}": v for k, v in asdict(stage.optimisation).items()}
    elif not isinstance(stage, (Solve, Transform, Adjust)):
        found |= {f"{stage.statistic}.{k}": v for k, v in stage.options.items()}
    if isinstance(stage, (Solve, Transform, Adjust)):
        ((name, part),) = PARTS[type(stage)].items()
        found |= {f"choose.{k}": stage.choose.get(k, ()) for k in _options(stage, name, part)}
    return found


def _options(stage: Stage, name: str, part: Part) -> dict[str, Any]:
    """Return the hyper-parameters of a part, defaults written out."""
    chosen = getattr(stage, name)
    kinds = chosen if isinstance(chosen, tuple) else (chosen,)
    defaults: dict[str, Any] = {}
    for kind in kinds:
        defaults |= hyper_parameters(part.catalogue[kind])
    return defaults | dict(getattr(stage, part.options or ""))


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
        name = key.removeprefix("feature.")
        if key.startswith("feature.") and name in feature:
            feature[name] = read_setting(key, value, feature[name])
            continue
        number, name = _find(method, stages, key)
        stages[number] = _changed(stages[number], name, value)
    written = tuple(_written_out(stage) for stage in stages)
    return replace(method, feature=FeatureSpec(**feature), stages=written)


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


def _renamed(stage: Any, name: str, part: Part, value: Any) -> Any:
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
    changed = {p.options: _options(stage, name, p) for name, p in parts if p.options is not None}
    return replace(stage, **changed)


def _with_grid(stage: Any, name: str, values: Any) -> Any:
    """Return a stage that chooses a hyper-parameter from some values; from none: it is fixed."""
    ((part_name, part),) = PARTS[type(stage)].items()
    example = _options(stage, part_name, part)[name]
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
    near = get_close_matches(str(key), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}known: {', '.join(known)}"
