"""Objectives by name: ``OBJECTIVES[name](loss, **hyper_parameters)``."""

from __future__ import annotations

from ltcache.objectives.base import Batch, Objective, Outputs
from ltcache.objectives.mean import WeightedMean

OBJECTIVES: dict[str, type[Objective]] = {"mean": WeightedMean}

__all__ = ["OBJECTIVES", "Batch", "Objective", "Outputs", "WeightedMean"]
