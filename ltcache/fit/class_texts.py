"""Whether a method has a use for class texts: it must have them, or may."""

from __future__ import annotations

from ltcache.methods import Method, MethodStage, Train


def keeps_texts(method: Method) -> bool:
    """Whether a method goes on using class texts that it is given, whatever its initialisation."""
    return method.feature.text_rows or any(stage.needs_prompts() for stage in method.stages)


def takes_texts(method: Method) -> bool:
    """Whether class texts can make a difference to a method."""
    return keeps_texts(method) or any(stage.may_start_from_prompts() for stage in method.stages)


def needs_texts(method: Method) -> bool:
    """Whether a method cannot be fitted without class texts."""
    return method.feature.text_rows or any(_must_have(stage) for stage in method.stages)


def _must_have(stage: MethodStage) -> bool:
    kind = stage.head_kind()
    if kind is None:
        return stage.needs_prompts()
    only_start = isinstance(stage, Train) and stage.init == "text"
    return only_start or bool({"text_features", "directions"} & set(kind.keeps))
