"""Methods by name, as data: no branch on a method's name stands anywhere."""

from __future__ import annotations

from ltcache.methods.catalogue import METHODS, method_by_name
from ltcache.methods.overrides import known_overrides, override
from ltcache.methods.prior import counts_as_drawn, residual_prior
from ltcache.methods.spec import FIELDS, FeatureSpec, Method, Optimisation, Stage, Train

__all__ = [
    "FIELDS",
    "METHODS",
    "FeatureSpec",
    "Method",
    "Optimisation",
    "Stage",
    "Train",
    "counts_as_drawn",
    "known_overrides",
    "method_by_name",
    "override",
    "residual_prior",
]
