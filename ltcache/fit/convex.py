"""Full-batch solver for linear heads under cross entropy with an offset: ``optimiser="lbfgs"``.

It minimises, over W and b,

    sum_i w_i CE(W x_i + b + offset, y_i) / sum_i w_i + weight_decay / 2 |W|^2,

b not penalised. scikit-learn's LogisticRegression has the same minimiser for C = 1 / (weight_decay
sum_i w_i), which is 1 / (weight_decay N) without weights. (AdamW's decay is decoupled and no L2
penalty: equal values of ``weight_decay`` mean different things.) A sampler is taken at its
expectation: with exponent a, rows of class c weigh n_c^(a - 1).

L-BFGS in coordinates where the Hessian is nearly diagonal. Rows are centred, which moves b alone,
and turned into the eigenvectors of their covariance, which leaves |W| as it is; in direction d with
variance v_d the curvature of class c is about s_c v_d + weight_decay, s_c the mean of p_c (1 - p_c)
over rows. Its inverse is the metric in which every iteration begins. Three cautions, all found by
counting evaluations on overlapping and on separable classes: s_c is kept above its value at the
start times 0.8^iteration, since p saturates at once where the steps are too long; it is drawn
half way (geometrically) to the mean over classes; and v_d is that of all rows, while the few that
still have curvature spread otherwise, so that three times its mean is added in every direction.
Without that, 100 classes that separate took 97 evaluations in place of 29.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ltcache.errors import FitError
from ltcache.fit.optimiser import parameters_to_train
from ltcache.fit.task import StageInput
from ltcache.fit.train import TrainingOutcome, choose_by
from ltcache.heads import AffineWeights, Head
from ltcache.losses import OffsetCrossEntropy, softmax_residual_
from ltcache.methods import Train
from ltcache.metrics import EpochRecord
from ltcache.objectives import Objective, TrainingBatch, WeightedMean
from ltcache.records import one_line
from ltcache.sampling import SAMPLERS

_BLOCK = 1024  # rows at once: their logits stay in the cache of a core
_MEMORY = 10  # pairs of steps and gradient changes
_ITERATIONS = 500
_FADING, _LEAST = 0.8, 1e-3  # per iteration, of the curvature at the start; and in the end
_SPREAD = 3.0  # times the mean variance, of rows that still have curvature, in every direction


def solve(head: Head, objective: Objective, stage: Train, task: StageInput) -> TrainingOutcome:
    """Fit a head in place to convergence; the epoch that is kept is the number of iterations.

    It ends where no entry of the gradient exceeds ``optimisation.tolerance``, after
    ``optimisation.epochs`` iterations (None: 500), or where float32 allows no further progress.
    Validation rows choose nothing here.

    Args: as of :func:`ltcache.fit.train.train_head`.

    Raises:
        FitError: the problem is not convex, or the stage asks for what this solver has not.
    """
    affine = require_convex(head, objective, stage)
    problem = ConvexProblem(head, objective, stage, task)
    limit = stage.optimisation.epochs or _ITERATIONS
    start = problem.start(affine, stage.init == "random")
    loss, done = math.inf, 0
    for done, loss in _minimise(problem, start, limit, stage.optimisation.tolerance):
        if not math.isfinite(loss):
            raise FitError(f"the loss is {loss} after {done} iterations; look at the features")
        if task.progress is not None:
            task.progress({"epoch": done, "epochs": limit, "loss": loss})
    problem.write(start, affine)
    head.eval()
    record: EpochRecord = {"epoch": done, "epochs": limit, "loss": loss}
    if task.val is not None:
        record |= choose_by(head, task.val)
    return TrainingOutcome([record], done)


def require_convex(head: Head, objective: Objective, stage: Train) -> AffineWeights:
    """Return the head's weight and bias if this solver may move them.

    Raises:
        FitError: it may not; the message says what stands in the way.
    """
    affine = head.affine() if head.fixed_representation and head.num_experts == 1 else None
    named = dict(head.named_parameters())
    moving = {id(named[name]) for name in parameters_to_train(head, stage)}
    own = set() if affine is None else {id(t) for t in affine if t is not None}
    loss: Any = type(objective.loss)
    reasons = {
        f"the head {stage.head!r} is not linear in its parameters": own != moving,
        f"the loss {stage.loss!r} is no cross entropy with a fixed offset": not (
            isinstance(objective.loss, OffsetCrossEntropy)
            and loss.gradient is OffsetCrossEntropy.gradient
        ),
        f"the objective {stage.objective!r} is no mean": type(objective) is not WeightedMean,
        "it has fusions": bool(stage.fusion),
        "it has composites": stage.composites > 0,
        "it has lr_factors": bool(stage.lr_factors),
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found or affine is None:
        raise FitError(
            f"optimisation.optimiser=lbfgs solves convex problems: {'; '.join(found)}; take adamw"
        )
    return affine


@one_line
@dataclass(frozen=True, eq=False)
class ObjectiveValue:
    """The objective at a point.

    Attributes:
        loss: in float64. gradient: (C, D + 1), the last column of b. curvature: s, (C,).
        steepest: the largest entry of the gradient.
    """

    loss: float
    steepest: float
    gradient: Tensor
    curvature: Tensor


class ConvexProblem:
    """Rows in turned coordinates, and the objective over (C, D + 1) points [W, b] on them."""

    def __init__(self, head: Head, objective: Objective, stage: Train, task: StageInput) -> None:
        rows = task.rows
        with torch.no_grad():
            features = head.normalise(head.represent(rows.features))[0]
        self.labels, self.classes = rows.labels, head.num_classes
        weights = _row_weights(objective, stage, task).to(features.dtype)
        self.weights = weights / weights.sum()
        self.decay = stage.optimisation.weight_decay
        offset: Any = objective.loss.offset
        self.offset = None if offset is None else offset.to(features.dtype)
        biased = head.affine()
        self.has_bias = biased is not None and biased.bias is not None
        mean = self.weights @ features
        self.mean = mean if self.has_bias else torch.zeros_like(mean)
        centred = features - self.mean
        covariance = (centred * self.weights[:, None]).T @ centred
        self.variance, self.turn = torch.linalg.eigh(covariance)
        self.variance.clamp_(min=0)
        self.rows = centred @ self.turn
        share = self._shares()
        self.first = (share * (1 - share)).clamp(min=torch.finfo(share.dtype).tiny)

    def _shares(self) -> Tensor:
        """Return the weight of each class, (C,)."""
        shares = self.weights.new_zeros(self.classes)
        return shares.index_add_(0, self.labels, self.weights)

    def start(self, affine: AffineWeights, fresh: bool) -> Tensor:
        """Return the point to begin at: zero weights and the log prior, or the head's own."""
        point = self.rows.new_zeros(self.classes, self.rows.shape[1] + 1)
        if fresh:
            if self.has_bias:
                shares = self._shares().clamp(min=1e-8).log()
                point[:, -1] = shares if self.offset is None else shares - self.offset
            return point
        weight = affine.weight.detach()
        point[:, :-1] = weight @ self.turn
        if affine.bias is not None:
            point[:, -1] = affine.bias.detach() + weight @ self.mean
        return point

    @torch.no_grad()
    def write(self, point: Tensor, affine: AffineWeights) -> None:
        """Put a point into the head, in its own coordinates."""
        weight = point[:, :-1] @ self.turn.T
        affine.weight.copy_(weight)
        if affine.bias is not None:
            affine.bias.copy_(point[:, -1] - weight @ self.mean)

    @torch.no_grad()
    def __call__(self, point: Tensor) -> ObjectiveValue:
        """Return the objective: two products per block of rows, sums over rows in float64."""
        weight, shift = point[:, :-1].contiguous(), point[:, -1]
        shift = shift if self.offset is None else shift + self.offset
        loss = 0.5 * self.decay * weight.double().square().sum()
        gradient, curvature = torch.zeros_like(weight), torch.zeros_like(shift)
        by_class = torch.zeros_like(shift)
        for start in range(0, len(self.rows), _BLOCK):
            rows, part = self.rows[start : start + _BLOCK], slice(start, start + _BLOCK)
            labels, weights = self.labels[part], self.weights[part]
            change = torch.addmm(shift, rows, weight.T)
            loss += (softmax_residual_(change, labels) * weights).double().sum()
            # the residual r is p but for 1 at the label: p (1 - p) = |r| (1 - |r|) in both cases
            size = change.abs()
            curvature += weights @ size.mul_(1 - size)
            change *= weights[:, None]
            gradient.addmm_(change.T, rows)
            by_class += change.sum(dim=0)
        gradient.add_(weight, alpha=self.decay)
        moving = by_class if self.has_bias else torch.zeros_like(by_class)
        gradient = torch.cat([gradient, moving[:, None]], dim=1)
        read = torch.stack([loss, gradient.abs().max().double()])  # both at once, for the host
        value, steepest = read.tolist()
        return ObjectiveValue(value, steepest, gradient, curvature)

    def metric(self, curvature: Tensor, iteration: int) -> Tensor:
        """Return the inverse of the nearly diagonal Hessian, (C, D + 1); see the module."""
        least = self.first * max(_FADING ** (iteration - 1), _LEAST)
        size = torch.maximum(curvature, least)[:, None]
        size = (size * size.mean()).sqrt()
        variance = self.variance + _SPREAD * self.variance.mean()
        inverse = 1 / (size * variance + self.decay)
        return torch.cat([inverse, 1 / size], dim=1)


def _row_weights(objective: Objective, stage: Train, task: StageInput) -> Tensor:
    """Return the weight of each row, with what its sampler does in expectation, (N,)."""
    labels = task.rows.labels
    batch = TrainingBatch(task.rows.features, labels, task.rows.weights)
    weights = objective.row_weights(batch, 1.0)
    assert weights is not None
    exponent = SAMPLERS[stage.sampler].exponent
    if exponent == 1:
        return weights
    return weights * torch.bincount(labels)[labels].double() ** (exponent - 1)


def _minimise(
    problem: ConvexProblem, point: Tensor, limit: int, tolerance: float
) -> Iterator[tuple[int, float]]:
    """Move a point in place to the minimum; yield the iteration and the objective after each."""
    here = problem(point)
    pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=_MEMORY)
    yield 0, here.loss
    for iteration in range(1, limit + 1):
        if here.steepest <= tolerance:
            return
        direction = _direction(here.gradient, problem.metric(here.curvature, iteration), pairs)
        found = _along(problem, point, here, direction)
        if found is None:  # the limit of the precision, or pairs that mislead
            if here.steepest <= 10 * tolerance or not pairs:
                return
            pairs.clear()
            continue
        step, there = found
        change = there.gradient - here.gradient
        curvature = _dot(step, change)
        if curvature > 0:
            pairs.append((step, change, 1 / curvature))
        point += step
        here = there
        yield iteration, here.loss


def _direction(
    gradient: Tensor, metric: Tensor, pairs: deque[tuple[Tensor, Tensor, float]]
) -> Tensor:
    """Return the direction of descent by the two loops of L-BFGS (Nocedal & Wright, 7.4)."""
    result, shares = gradient.clone(), []
    for step, change, inverse in reversed(pairs):
        share = inverse * _dot(step, result)
        shares.append(share)
        result.add_(change, alpha=-share)
    result *= metric
    if pairs:
        step, change, inverse = pairs[-1]
        result *= 1 / (inverse * _dot(change, change * metric))
    for (step, change, inverse), share in zip(pairs, reversed(shares), strict=True):
        result.add_(step, alpha=share - inverse * _dot(change, result))
    return result.neg_()


def _along(
    problem: ConvexProblem, point: Tensor, here: ObjectiveValue, direction: Tensor
) -> tuple[Tensor, ObjectiveValue] | None:
    """Return a step along a direction that lowers the objective enough, or None.

    The objective is convex, so that a step of less than the full length comes from the parabola
    through what is known; Armijo's condition suffices, since every pair has curvature >= 0.
    """
    slope, length = _dot(here.gradient, direction), 1.0
    noise = torch.finfo(point.dtype).eps * abs(here.loss)
    if slope >= 0:
        return None
    for _ in range(12):
        step = direction * length
        there = problem(point + step)
        rise = there.loss - here.loss
        if rise <= 1e-4 * length * slope:
            return step, there
        if abs(rise) <= noise and abs(_dot(there.gradient, direction)) <= 0.9 * abs(slope):
            return step, there  # approximate Wolfe (Hager & Zhang, SIAM J. Optim. 2005)
        best = -0.5 * slope * length**2 / (rise - slope * length) if math.isfinite(rise) else 0.0
        length = min(max(best, 0.1 * length), 0.5 * length)
    return None


def _dot(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a.flatten(), b.flatten()))
