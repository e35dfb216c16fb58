"""Objectives by name: ``OBJECTIVES[name](loss, **hyper_parameters)``."""

from __future__ import annotations

from ltcache.objectives.base import Batch, Objective, Outputs
from ltcache.objectives.mean import WeightedMean
from ltcache.objectives.reslt import ResLT
from ltcache.objectives.ride import Ride
from ltcache.objectives.sade import Sade

OBJECTIVES: dict[str, type[Objective]] = {
    "mean": WeightedMean,
    "ride": Ride,
    "reslt": ResLT,
    "sade": Sade,
}

__all__ = ["OBJECTIVES", "Batch", "Objective", "Outputs", "ResLT", "Ride", "Sade", "WeightedMean"]
