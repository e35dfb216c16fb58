"""Objectives by name: ``OBJECTIVES[name](loss, **hyper_parameters)``."""

from __future__ import annotations

from ltcache.objectives.base import HeadOutputs, Objective, TrainingBatch
from ltcache.objectives.mean import WeightedMean
from ltcache.objectives.reslt import ResLT
from ltcache.objectives.ride import RideObjective
from ltcache.objectives.sade import SadeObjective

OBJECTIVES: dict[str, type[Objective]] = {
    "mean": WeightedMean,
    "ride": RideObjective,
    "reslt": ResLT,
    "sade": SadeObjective,
}

__all__ = [
    "OBJECTIVES",
    "HeadOutputs",
    "Objective",
    "ResLT",
    "RideObjective",
    "SadeObjective",
    "TrainingBatch",
    "WeightedMean",
]
