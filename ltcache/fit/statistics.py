"""Statistics that a stage estimates for later losses: ``STATISTICS[name](task, **options)``.

``compensation`` is the class-wise delta of Sage's compensated logit adjustment. The paper's own
factor is not public: this is a reconstruction. With delta_c = E[log p_t(x|c) / p_s(x|c)] >= 0, the
mismatch between a class and its training sample, larger for rarer classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.fit.task import StageInput
from ltcache.fit.train import train_head
from ltcache.heads import HEADS, class_means
from ltcache.losses import LOSSES
from ltcache.methods import Optimisation, Train
from ltcache.objectives import OBJECTIVES


def compensation(
    task: StageInput, *, estimator: str = "finite_sample", folds: int = 5
) -> dict[str, Tensor]:
    """Return ``delta``, (C,) float64.

    Args:
        estimator: ``finite_sample``: D_eff / (2 n_c), the bias of a plug-in mean's class score,
            with the effective rank tr(S)^2 / tr(S^2) of the within-class covariance S;
            ``optimism``: mean log p(y|x) of a class in the sample minus out of it (cross-fitted);
            ``drift``: 1 - cos(class mean, class text).
        folds: of ``optimism``, at least 2.

    Raises:
        FitError: an unknown estimator, ``drift`` without class texts, or too few folds.
    """
    if estimator not in ESTIMATORS:
        raise FitError(f"unknown estimator {estimator!r}; known: {', '.join(ESTIMATORS)}")
    if estimator == "optimism" and folds < 2:
        raise FitError(
            f"compensation.folds={folds} leaves no rows to fit on: take 2 or more, such as 5"
        )
    return {"delta": ESTIMATORS[estimator](task, folds)}


def finite_sample(task: StageInput, folds: int) -> Tensor:
    """Return D_eff / (2 n_c), n_c images: crops of one say nothing new, and extra ones count by
    their weight. A class counts as one image at least."""
    features, labels = task.rows.features.double(), task.rows.labels
    means = torch.zeros(task.context.num_classes, features.shape[1], dtype=torch.float64)
    means = means.to(features.device).index_add_(0, labels, features)
    counts = torch.bincount(labels, minlength=len(means)).clamp(min=1).double()
    centred = features - (means / counts[:, None])[labels]
    covariance = centred.T @ centred / len(centred)
    rank = covariance.trace() ** 2 / (covariance**2).sum()
    images = task.context.class_counts.double().clamp(min=1).cpu()
    return rank.cpu() / (2 * images)


def drift(task: StageInput, folds: int) -> Tensor:
    """Return 1 - cos(mu_c, u_c), u_c the text direction; 0 for a class without rows."""
    if task.transform not in ("none", "l2"):
        raise FitError("estimator=drift compares with class texts: take feature.transform=l2")
    text = task.context.text_directions().to(task.device).double()
    means = class_means(F.normalize(task.rows.features, dim=1), task.rows.labels, len(text))
    there = torch.bincount(task.rows.labels, minlength=len(text)) > 0
    return torch.where(there, 1 - (means.double() * text).sum(dim=1), 0.0).cpu()


def optimism(task: StageInput, folds: int) -> Tensor:
    """Return mean log p(y|x) of each class in the sample minus cross-fitted, at least 0.

    A class with a single unit is out of every fit that scores it.
    """
    units = task.rows.units
    units = np.arange(len(task.rows)) if units is None else units
    names, unit = np.unique(units, return_inverse=True)
    order = np.random.default_rng(task.generator.initial_seed()).permutation(len(names))
    fold = torch.from_numpy(order[unit] % folds)
    inside = _log_likelihood(task, torch.arange(len(unit)), torch.arange(len(unit)))
    outside = torch.empty_like(inside)
    for number in range(folds):
        rest, held = (
            torch.nonzero(fold != number).flatten(),
            torch.nonzero(fold == number).flatten(),
        )
        outside[held] = _log_likelihood(task, rest, held)
    gap, labels = inside - outside, task.rows.labels.cpu()
    counts = torch.bincount(labels, minlength=task.context.num_classes)
    sums = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, labels, gap)
    return (sums / counts.clamp(min=1)).clamp(min=0)


def _log_likelihood(task: StageInput, fitted: Tensor, scored: Tensor) -> Tensor:
    """Return log p(y|x) of some rows under a cosine head that cross entropy fits to others."""
    part = replace(task, rows=task.rows.take(fitted), val=None, progress=None)
    head = HEADS["cosine"](task.context).to(task.device)
    rows, generator = part.rows, task.stream(3)
    head.initialise("class_mean", rows.features, rows.labels, generator, task.context)
    stage = Train(optimisation=Optimisation(lr=3e-3, weight_decay=0.0, epochs=10))
    objective = OBJECTIVES["mean"](LOSSES["cross_entropy"](task.context.class_counts.clamp(min=1)))
    train_head(head, objective.to(task.device), stage, replace(part, generator=generator))
    with torch.no_grad():
        logits = head(task.rows.features[scored])
    return -F.cross_entropy(logits, task.rows.labels[scored], reduction="none").double().cpu()


ESTIMATORS: Mapping[str, Callable[[StageInput, int], Tensor]] = {
    "finite_sample": finite_sample,
    "optimism": optimism,
    "drift": drift,
}
STATISTICS: Mapping[str, Callable[..., Mapping[str, Any]]] = {"compensation": compensation}
