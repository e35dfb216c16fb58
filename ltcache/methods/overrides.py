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
from dataclasses import replace
from typing import Any

from ltcache.errors import UsageError, did_you_mean
from ltcache.methods.changed import named
from ltcache.methods.settings import (
    SMOOTH,
    SettingValues,
    dotted,
    in_turn,
    unknown_setting,
    with_entry,
)
from ltcache.methods.spec import STAGES, Method
from ltcache.methods.stage import MethodStage


def override(method: Method, overrides: Mapping[str, Any] | None) -> Method:
    """Return the method with some settings changed, and all hyper-parameters written out.

    Args:
        overrides: dotted key -> value; a text is read as the type of the present value.

    Raises:
        UsageError: an unknown key or name (the nearest is given), or a value that cannot be read.
    """
    stages, feature = list(method.stages), method.feature
    names = {name for kind in STAGES.values() for name in kind.PARTS}
    for key, value in in_turn(overrides, names).items():
        if key == SMOOTH and any(stage.smoothing_settings() for stage in stages):
            stages = [_smoothed(stage, value) for stage in stages]
        elif key in dotted("feature", feature):
            feature = with_entry(feature, key, value)
        else:
            place = _place(stages, key)
            if place is None:
                known = known_overrides(replace(method, stages=tuple(stages)))
                raise unknown_setting(f"method {method.name}", key, known)
            number, name = place
            stages[number] = stages[number].with_setting(name, value)
    written = tuple(stage.written_out() for stage in stages)
    return named(replace(method, feature=feature, stages=written), method)


def known_overrides(method: Method) -> SettingValues:
    """Return every bare key that :func:`override` takes for a method, with its present value."""
    known = dotted("feature", method.feature)
    for stage in method.stages:
        known |= stage.settings()
    smooth = [stage.settings()[k] for stage in method.stages for k in stage.smoothing_settings()]
    return {**known, SMOOTH: all(smooth)} if smooth else known


def _smoothed(stage: MethodStage, value: Any) -> MethodStage:
    for key in stage.smoothing_settings():
        stage = stage.with_setting(key, value)
    return stage


def has_setting(method: Method, key: str) -> bool:
    """Whether :func:`override` knows a key for a method."""
    return key in known_overrides(method) or _place(method.stages, key) is not None


def setting_of_none(methods: Sequence[Method], key: str) -> UsageError:
    """Return the refusal of a key that none of several methods has, with the one that was meant."""
    known = sorted({name for method in methods for name in known_overrides(method)})
    hint = did_you_mean(key, known) or f"known: {', '.join(known)}"
    return UsageError(f"no method has a setting {key!r}; {hint}")


def _place(stages: Sequence[MethodStage], key: str) -> tuple[int, str] | None:
    """Return the number of the stage that a key is for, and the key within it."""
    first, _, rest = key.partition(".")
    number, _, name = rest.partition(".")
    named = first == "stages" and number.isdigit() and int(number) < len(stages)
    if named and name in stages[int(number)].settings():
        return int(number), name
    having = [index for index, stage in enumerate(stages) if key in stage.settings()]
    return (having[-1], key) if having else None
