"""Fitting heads: :func:`fit_adapter` from a cache to a run, :func:`fit_head` on tensors, and
:func:`fit_many` for many methods, settings or seeds on the same tensors."""

from __future__ import annotations

from ltcache.fit.adapter import fit_adapter, fit_seeds, summarise_seeds
from ltcache.fit.extra import ExtraRows
from ltcache.fit.head import FittedHead, fit_head
from ltcache.fit.many import FitJob, fit_many
from ltcache.fit.rows import LabelledRows, hold_out, require_classes

__all__ = [
    "ExtraRows",
    "FitJob",
    "FittedHead",
    "LabelledRows",
    "fit_adapter",
    "fit_head",
    "fit_many",
    "fit_seeds",
    "hold_out",
    "require_classes",
    "summarise_seeds",
]
