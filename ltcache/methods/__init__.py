"""Methods by name, as data: no branch on a method's name stands anywhere."""

from __future__ import annotations

from ltcache.methods.catalogue import METHODS, method_by_name
from ltcache.methods.overrides import override
from ltcache.methods.prior import counts_as_drawn, residual_prior
from ltcache.methods.settings import hyper_parameters, known_overrides
from ltcache.methods.spec import (
    FIELDS,
    LEAST_STEPS,
    Adjust,
    Estimate,
    FeatureSpec,
    Method,
    Optimisation,
    Solve,
    Stage,
    Train,
    Transform,
    epochs_to_make,
    read_optimisation,
    written_optimisation,
)
from ltcache.methods.structure import build_head
from ltcache.methods.unavailable import UNAVAILABLE, UnavailableMethod

__all__ = [
    "FIELDS",
    "LEAST_STEPS",
    "METHODS",
    "UNAVAILABLE",
    "Adjust",
    "Estimate",
    "FeatureSpec",
    "Method",
    "Optimisation",
    "Solve",
    "Stage",
    "Train",
    "Transform",
    "UnavailableMethod",
    "build_head",
    "counts_as_drawn",
    "epochs_to_make",
    "hyper_parameters",
    "known_overrides",
    "method_by_name",
    "override",
    "read_optimisation",
    "residual_prior",
    "written_optimisation",
]
