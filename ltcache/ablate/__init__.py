"""Comparing many methods on one cache."""

from __future__ import annotations

from ltcache.ablate.ablation import Ablation, ablate
from ltcache.ablate.auto import Choice, choose_method
from ltcache.ablate.plan import Setting, settings_of
from ltcache.ablate.runs import Progress

__all__ = [
    "Ablation",
    "Choice",
    "Progress",
    "Setting",
    "ablate",
    "choose_method",
    "settings_of",
]
