"""Comparing many methods on one cache."""

from __future__ import annotations

from ltcache.ablate.ablation import Ablation, ablate
from ltcache.ablate.auto import MethodChoice, choose_method
from ltcache.ablate.choice import PairedChoice
from ltcache.ablate.label_errors import label_errors
from ltcache.ablate.plan import AblationSetting, settings_of
from ltcache.ablate.runs import AblationProgress
from ltcache.ablate.tune import TuningTrial, tune

__all__ = [
    "Ablation",
    "AblationProgress",
    "AblationSetting",
    "MethodChoice",
    "PairedChoice",
    "TuningTrial",
    "ablate",
    "choose_method",
    "label_errors",
    "settings_of",
    "tune",
]
