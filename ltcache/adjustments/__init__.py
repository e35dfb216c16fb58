"""What acts on a finished head: ``ADJUSTMENTS`` on its logits, ``WEIGHT_TRANSFORMS`` on weights."""

from __future__ import annotations

from collections.abc import Callable

from ltcache.heads import Head

ADJUSTMENTS: dict[str, type[Head]] = {}
WEIGHT_TRANSFORMS: dict[str, Callable[..., Head]] = {}

__all__ = ["ADJUSTMENTS", "WEIGHT_TRANSFORMS"]
