"""Whether a method has a use for class texts: it must have them, or may."""

from __future__ import annotations

from ltcache.adjustments import ADJUSTMENTS
from ltcache.heads import HEADS, Head, uses_texts
from ltcache.methods import Adjust, Estimate, Method, Solve, Stage, Train


def keeps_texts(method: Method) -> bool:
    """Whether a method goes on using class texts that it is given, whatever its initialisation."""
    return any(uses_texts(kind) for kind in _kinds(method)) or _fits_texts(method)


def takes_texts(method: Method) -> bool:
    """Whether class texts can make a difference to a method."""
    return keeps_texts(method) or any("text" in starts for starts in _starts(method))


def needs_texts(method: Method) -> bool:
    """Whether a method cannot be fitted without class texts."""
    must = any({"text_features", "directions"} & set(kind.keeps) for kind in _kinds(method))
    return must or _fits_texts(method) or ["text"] in _starts(method)


def _kinds(method: Method) -> list[type[Head]]:
    """Return the heads and adjustments of a method."""
    heads = [HEADS[s.head] for s in method.stages if isinstance(s, (Train, Solve))]
    return [*heads, *(ADJUSTMENTS[s.adjustment] for s in method.stages if isinstance(s, Adjust))]


def _starts(method: Method) -> list[list[str]]:
    """Return the initialisations that each stage may take."""
    return [stage.init.split("|") for stage in method.stages if isinstance(stage, Train)]


def _fits_texts(method: Method) -> bool:
    """Whether class texts are among what a method is fitted to."""
    return method.feature.text_rows or any(_drifts(stage) for stage in method.stages)


def _drifts(stage: Stage) -> bool:
    return isinstance(stage, Estimate) and stage.options.get("estimator") == "drift"
