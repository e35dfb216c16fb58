"""The head that a method's stages end in, without its trained state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ltcache.errors import FitError
from ltcache.heads import Head, HeadContext
from ltcache.methods.stage import MethodStage


def build_head(
    stages: Sequence[MethodStage], choices: Sequence[Mapping[str, Any]], context: HeadContext
) -> Head:
    """Return the head of a method, ready for ``load_state_dict``.

    Args:
        choices: what was chosen in each stage when it was fitted.

    Raises:
        FitError: no stage makes a head.
    """
    head: Head | None = None
    for stage, choice in zip(stages, choices, strict=True):
        head = stage.head_after(head, choice, context)
    if head is None:
        raise FitError("the method has no stage that makes a head")
    return head
