"""The head that a method's stages end in, without its trained state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ltcache.adjustments import ADJUSTMENTS
from ltcache.errors import FitError
from ltcache.heads import HEADS, Head, HeadContext
from ltcache.methods.spec import Adjust, Solve, Stage, Train


def build_head(
    stages: Sequence[Stage], choices: Sequence[Mapping[str, Any]], context: HeadContext
) -> Head:
    """Return the head of a method, ready for ``load_state_dict``.

    Args:
        choices: what was chosen in each stage when it was fitted.

    Raises:
        FitError: no stage makes a head.
    """
    head: Head | None = None
    for stage, choice in zip(stages, choices, strict=True):
        if isinstance(stage, Train):
            head = HEADS[stage.head](context, **stage.head_options)
        elif isinstance(stage, Solve):
            head = HEADS[stage.head](context, **{**stage.head_options, **choice})
        elif isinstance(stage, Adjust) and head is not None:
            kind: Any = ADJUSTMENTS[stage.adjustment]
            head = kind(head, context, **{**stage.options, **choice})
    if head is None:
        raise FitError("the method has no stage that makes a head")
    return head
