"""Objectives by name: ``OBJECTIVES[name](loss, **hyper_parameters)``."""

from __future__ import annotations

from ltcache.objectives.ace import ACEObjective
from ltcache.objectives.base import (
    HeadOutputs,
    LabelShare,
    Objective,
    TrainingBatch,
    TrainingStart,
)
from ltcache.objectives.each_expert import EachExpertObjective
from ltcache.objectives.lfme import GroupExpertsObjective, LFMEObjective
from ltcache.objectives.mbj import MBJObjective
from ltcache.objectives.mean import WeightedMean
from ltcache.objectives.oltr import OLTRObjective, attraction
from ltcache.objectives.paco import GPaCoObjective, PaCoObjective, parametric_contrast
from ltcache.objectives.reslt import ResLT
from ltcache.objectives.ride import RideObjective
from ltcache.objectives.sade import SadeObjective

OBJECTIVES: dict[str, type[Objective]] = {
    "mean": WeightedMean,
    "ride": RideObjective,
    "reslt": ResLT,
    "sade": SadeObjective,
    "gpaco": GPaCoObjective,
    "paco": PaCoObjective,
    "group_experts": GroupExpertsObjective,
    "lfme": LFMEObjective,
    "each_expert": EachExpertObjective,
    "oltr": OLTRObjective,
    "mbj": MBJObjective,
    "ace": ACEObjective,
}

__all__ = [
    "OBJECTIVES",
    "ACEObjective",
    "EachExpertObjective",
    "GPaCoObjective",
    "GroupExpertsObjective",
    "HeadOutputs",
    "LFMEObjective",
    "LabelShare",
    "MBJObjective",
    "OLTRObjective",
    "Objective",
    "PaCoObjective",
    "ResLT",
    "RideObjective",
    "SadeObjective",
    "TrainingBatch",
    "TrainingStart",
    "WeightedMean",
    "attraction",
    "parametric_contrast",
]
