"""Comparing many methods on one cache."""

from __future__ import annotations

from ltcache.ablate.ablation import Ablation, ablate
from ltcache.ablate.auto import MethodChoice, choose_method
from ltcache.ablate.choice import PairedChoice
from ltcache.ablate.fold_report import FoldedRuns, read_folds
from ltcache.ablate.growth import PARTS, more_images
from ltcache.ablate.mislabelled import label_errors
from ltcache.ablate.on_ray import ablate_on_ray
from ltcache.ablate.plan import AblationSetting, settings_of
from ltcache.ablate.runs import AblationProgress
from ltcache.ablate.tune import TuningTrial, tune

__all__ = [
    "PARTS",
    "Ablation",
    "AblationProgress",
    "AblationSetting",
    "FoldedRuns",
    "MethodChoice",
    "PairedChoice",
    "TuningTrial",
    "ablate",
    "ablate_on_ray",
    "choose_method",
    "label_errors",
    "more_images",
    "read_folds",
    "settings_of",
    "tune",
]
