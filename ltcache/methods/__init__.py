"""Methods by name, as data: no branch on a method's name stands anywhere."""

from __future__ import annotations

from ltcache.methods.catalogue import ALIASES, METHODS, method_by_name, nearest_names
from ltcache.methods.changed import different, with_changes
from ltcache.methods.families.shared import COSINE
from ltcache.methods.overrides import known_overrides, override
from ltcache.methods.prior import counts_as_drawn, residual_prior
from ltcache.methods.settings import SMOOTH, hyper_parameters, nearest, read_setting
from ltcache.methods.spec import (
    FIELDS,
    LEAST_STEPS,
    STAGES,
    Adjust,
    Estimate,
    FeatureSpec,
    Method,
    Optimisation,
    Solve,
    Train,
    Transform,
    epochs_to_make,
    read_optimisation,
    written_optimisation,
)
from ltcache.methods.stage import CatalogueField, MethodStage
from ltcache.methods.structure import build_head
from ltcache.methods.unavailable import UNAVAILABLE, UnavailableMethod

__all__ = [
    "ALIASES",
    "COSINE",
    "FIELDS",
    "LEAST_STEPS",
    "METHODS",
    "SMOOTH",
    "STAGES",
    "UNAVAILABLE",
    "Adjust",
    "CatalogueField",
    "Estimate",
    "FeatureSpec",
    "Method",
    "MethodStage",
    "Optimisation",
    "Solve",
    "Train",
    "Transform",
    "UnavailableMethod",
    "build_head",
    "counts_as_drawn",
    "different",
    "epochs_to_make",
    "hyper_parameters",
    "known_overrides",
    "method_by_name",
    "nearest",
    "nearest_names",
    "override",
    "read_optimisation",
    "read_setting",
    "residual_prior",
    "with_changes",
    "written_optimisation",
]
