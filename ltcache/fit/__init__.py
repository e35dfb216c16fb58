"""Fitting heads: :func:`fit_adapter` from a cache to a run, :func:`fit_head` on tensors."""

from __future__ import annotations

from ltcache.fit.adapter import fit_adapter, fit_seeds
from ltcache.fit.head import Fitted, fit_head
from ltcache.fit.rows import Rows, hold_out

__all__ = ["Fitted", "Rows", "fit_adapter", "fit_head", "fit_seeds", "hold_out"]
