"""Methods by name, as data: no branch on a method's name stands anywhere."""

from __future__ import annotations

from ltcache.methods.catalogue import (
    ALIASES,
    METHODS,
    method_by_name,
    nearest_names,
    with_fusion,
)
from ltcache.methods.changed import different, with_changes
from ltcache.methods.families.h2t import FUSED_FORMS
from ltcache.methods.families.shared import COSINE
from ltcache.methods.optimisation import (
    LEAST_STEPS,
    Optimisation,
    epochs_to_make,
    read_optimisation,
    written_optimisation,
)
from ltcache.methods.overrides import has_setting, known_overrides, override, setting_of_none
from ltcache.methods.prior import counts_as_drawn, residual_prior
from ltcache.methods.settings import (
    SMOOTH,
    SettingValues,
    dotted,
    hyper_parameters,
    in_turn,
    read_names,
    read_setting,
    require_name,
    unknown_setting,
    with_entry,
)
from ltcache.methods.spec import (
    FIELDS,
    STAGES,
    Adjust,
    Estimate,
    FeatureSpec,
    Method,
    Solve,
    Train,
    Transform,
)
from ltcache.methods.stage import CatalogueField, MethodStage
from ltcache.methods.structure import build_head
from ltcache.methods.unavailable import UNAVAILABLE, UnavailableMethod

__all__ = [
    "ALIASES",
    "COSINE",
    "FIELDS",
    "FUSED_FORMS",
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
    "SettingValues",
    "Solve",
    "Train",
    "Transform",
    "UnavailableMethod",
    "build_head",
    "counts_as_drawn",
    "different",
    "dotted",
    "epochs_to_make",
    "has_setting",
    "hyper_parameters",
    "in_turn",
    "known_overrides",
    "method_by_name",
    "nearest_names",
    "override",
    "read_names",
    "read_optimisation",
    "read_setting",
    "require_name",
    "residual_prior",
    "setting_of_none",
    "unknown_setting",
    "with_changes",
    "with_entry",
    "with_fusion",
    "written_optimisation",
]
