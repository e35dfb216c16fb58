"""Fitting heads: :func:`fit_adapter` from a cache to a run, :func:`fit_head` on tensors, and
:func:`fit_many` for many methods, settings or seeds on the same tensors."""

from __future__ import annotations

from ltcache.fit.adapter import (
    fit_adapter,
    fit_seeds,
    make_context,
    require_same,
    summarise_seeds,
)
from ltcache.fit.cached_rows import composite_view, labelled_rows, training_rows, val_rows
from ltcache.fit.class_texts import needs_texts, takes_texts
from ltcache.fit.composites import composites_come, require_composite_epochs
from ltcache.fit.extra import ExtraRows
from ltcache.fit.head import FitOptions, FittedHead, Memo, fit_head
from ltcache.fit.many import FitJob, fit_many, runs_at_once
from ltcache.fit.optimiser import ParameterGroup, optimiser_of, set_lr
from ltcache.fit.random_crops import unused_random_crops
from ltcache.fit.row_features import RowFeatures
from ltcache.fit.rows import LEAST, SHARE, LabelledRows, hold_out, require_classes
from ltcache.fit.stages import RUNNERS, combinations
from ltcache.fit.statistics import STATISTICS
from ltcache.fit.task import StageInput, StageResult
from ltcache.fit.train import choose_by
from ltcache.fit.unfitted import TrainingFit, recorded_fit, training_fit, warn_of_training

__all__ = [
    "LEAST",
    "RUNNERS",
    "SHARE",
    "STATISTICS",
    "ExtraRows",
    "FitJob",
    "FitOptions",
    "FittedHead",
    "LabelledRows",
    "Memo",
    "ParameterGroup",
    "RowFeatures",
    "StageInput",
    "StageResult",
    "TrainingFit",
    "choose_by",
    "combinations",
    "composite_view",
    "composites_come",
    "fit_adapter",
    "fit_head",
    "fit_many",
    "fit_seeds",
    "hold_out",
    "labelled_rows",
    "make_context",
    "needs_texts",
    "optimiser_of",
    "recorded_fit",
    "require_classes",
    "require_composite_epochs",
    "require_same",
    "runs_at_once",
    "set_lr",
    "summarise_seeds",
    "takes_texts",
    "training_fit",
    "training_rows",
    "unused_random_crops",
    "val_rows",
    "warn_of_training",
]
