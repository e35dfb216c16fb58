"""Post-OT, the part of ABL that is public (Jin, Lang and Lei, IJCV 2023): the predictions of a set
are matched to a class distribution.

The paper's abstract says that, and no more could be read: entropic optimal transport by Sinkhorn's
iterations, its ``eps`` and where it stops are choices made here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ltcache.adjustments.base import Adjustment, PredictedRows
from ltcache.errors import FitError
from ltcache.heads import Head, HeadContext, predict_logits
from ltcache.losses import class_prior
from ltcache.records import JsonObject

TARGETS = ("uniform", "train")
_BLOCK = 8192


class PostOptimalTransport(Adjustment):
    """z + v, where P = exp((log p + u 1' + 1 v') / eps) has rows of sum 1/N and columns of sum r.

    p are the probabilities of the N rows that are to be predicted, r is the distribution over
    classes that they are taken to have. Only v, one number for each class, is kept. At ``eps`` 1
    the mean posterior of the rows becomes r, near 0 the share of each class among the predictions.
    log p is held in float64, (N, C). Fewer rows than classes are pulled apart with little reason.

    Args:
        target: r: ``uniform``, or ``train``, the prior of the training rows.
        eps: of the entropy, above 0.
        iterations: at most; 0 leaves v at 0. tolerance: stops where no row's sum is off by more
            than this share of 1/N.
        smooth_prior: take (n + 1) / sum(n + 1) as the prior of the training rows; else a class
            without rows is refused under ``train``.
    """

    transductive = True
    instead = "ce"
    equation = "z + v, sum_i P_ic = r_c"
    log_target: Tensor
    potentials: Tensor | None

    def __init__(
        self,
        base: Head,
        context: HeadContext,
        *,
        target: str = "uniform",
        eps: float = 1.0,
        iterations: int = 1000,
        tolerance: float = 1e-6,
        smooth_prior: bool = False,
    ) -> None:
        super().__init__(base, context)
        if target not in TARGETS:
            raise FitError(f"adjustment.target={target!r} is none of {', '.join(TARGETS)}")
        if not eps > 0 or iterations < 0:
            raise FitError(
                f"adjustment.eps={eps:g} must be above 0, adjustment.iterations={iterations} at "
                "least 0"
            )
        self.target, self.eps, self.smooth_prior = target, eps, smooth_prior
        self.iterations, self.tolerance = iterations, tolerance
        classes = context.num_classes
        log_target = torch.full((classes,), -math.log(classes), dtype=torch.float64)
        if target == "train":
            log_target = class_prior(context.class_counts, smooth_prior).log()
        self.register_buffer("log_target", log_target)
        self.register_buffer("potentials", None, persistent=False)

    def adapt(self, unlabelled: PredictedRows) -> JsonObject:
        """See :meth:`Adjustment.adapt`; logits of several crops are averaged, as in prediction."""
        crops = unlabelled.crops(unlabelled.view)
        logits = predict_logits(self.base, crops.flatten(0, 1)).unflatten(0, crops.shape[:2])
        scores = logits.mean(dim=1).double().log_softmax(dim=1)
        self.potentials, steps, error = sinkhorn_potentials(
            scores, self.log_target, self.eps, self.iterations, self.tolerance
        )
        end = "converged" if error <= self.tolerance else "not converged"
        return {
            "target": self.target,
            "potentials": self.potentials.tolist(),
            "iterations": steps,
            "end": end if steps else "no iteration",
        }

    def adjust(self, logits: Tensor, features: Tensor) -> Tensor:
        """See :meth:`Adjustment.adjust`."""
        return logits + self.learned(self.potentials).to(logits)

    def residual_after(self, residual: float | None) -> float | None:
        """See :meth:`Adjustment.residual_after`: it depends on the rows that are predicted."""
        return None


@torch.no_grad()
def sinkhorn_potentials(
    scores: Tensor, log_target: Tensor, eps: float, iterations: int, tolerance: float
) -> tuple[Tensor, int, float]:
    """Return v (C,) of mean 0, the iterations made, and the largest error of a row's sum times N.

    Each iteration sets u from the sums of rows, then v from those of columns, which are exact at
    the end; all in logarithms.

    Args:
        scores: log-probabilities, (N, C), float64. log_target: log r, (C,), finite.
        eps, iterations, tolerance: see :class:`PostOptimalTransport`.
    """
    v, error, step = torch.zeros_like(log_target), math.inf, 0
    of_each = -math.log(len(scores))
    log_rows = _row_log_sums(scores, v, eps)
    while step < iterations and error > tolerance:
        u = eps * (of_each - log_rows)
        v = eps * (log_target - _column_log_sums(scores, u, eps))
        log_rows = _row_log_sums(scores, v, eps)
        error = float((log_rows + u / eps - of_each).expm1().abs().max())
        step += 1
    return v - v.mean(), step, error


def _row_log_sums(scores: Tensor, v: Tensor, eps: float) -> Tensor:
    return torch.cat([((part + v) / eps).logsumexp(dim=1) for part in scores.split(_BLOCK)])


def _column_log_sums(scores: Tensor, u: Tensor, eps: float) -> Tensor:
    parts = zip(scores.split(_BLOCK), u.split(_BLOCK), strict=True)
    return torch.stack([((s + t[:, None]) / eps).logsumexp(dim=0) for s, t in parts]).logsumexp(0)
