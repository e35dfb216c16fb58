"""Fusions by name: ``FUSIONS[name](**hyper_parameters)``; hyper-parameters are named apart, since
the fusions of a stage share one table of options."""

from __future__ import annotations

from ltcache.fusion.base import FusedBatch, Fusion
from ltcache.fusion.bbn import BilateralBranches
from ltcache.fusion.h2t import H2T
from ltcache.fusion.mixup import Mixup

FUSIONS: dict[str, type[Fusion]] = {
    "h2t": H2T,
    "mixup": Mixup,
    "bbn": BilateralBranches,
}

__all__ = ["FUSIONS", "H2T", "BilateralBranches", "FusedBatch", "Fusion", "Mixup"]
