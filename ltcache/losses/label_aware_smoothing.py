"""Label-aware smoothing (Zhong et al., Improving calibration for long-tailed recognition, MiSLAS,
CVPR 2021): the more rows a class has, the more its labels are smoothed."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.losses.base import Loss

SHAPES = ("sin", "linear", "exp", "convex")


def smoothing(
    class_counts: Tensor, eps_head: float, eps_tail: float, shape: str, power: float
) -> Tensor:
    """Return the share of each class's labels that is spread over all classes, (C,), float64.

    It rises from ``eps_tail`` at the smallest count to ``eps_head`` at the largest, along
    r = (n - n_min) / (n_max - n_min); without imbalance it is ``eps_tail`` everywhere.
    """
    counts = class_counts.to(torch.float64)
    spread = counts.max() - counts.min()
    rank = (counts - counts.min()) / spread if spread > 0 else torch.zeros_like(counts)
    if shape == "sin":
        rank = torch.sin(rank * math.pi / 2)
    elif shape == "exp":
        rank = rank**power
    elif shape == "convex":
        rank = 1 + torch.sin(1.5 * math.pi + rank * math.pi / 2)
    return eps_tail + (eps_head - eps_tail) * rank


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, eps: Tensor) -> Tensor:
    """Return (1 - eps) * -log p_y + eps * mean_c(-log p_c), (N,), for eps (N,)."""
    log_p = F.log_softmax(logits, dim=1)
    own = log_p.gather(1, labels[:, None]).squeeze(1)
    return -(1 - eps) * own - eps * log_p.mean(dim=1)


class LabelAwareSmoothing(Loss):
    """(1 - eps_y) CE(z, y) + eps_y mean_c CE(z, c), eps by class (:func:`smoothing`).

    It tempers confidence. The minimiser ranks classes by (1 - eps_c) times the posterior, so head
    classes lose log((1 - eps_tail) / (1 - eps_head)) at most; heads that underfit can lose more.
    That is not counted as a correction: MiSLAS pairs the loss with a class-balanced sampler.

    Args:
        class_counts: (C,).
        eps_head, eps_tail: smoothing of the largest and of the smallest class, 0..1.
        shape: of the way between: ``sin`` (concave), ``linear``, ``exp`` (r**power), ``convex``.
        power: of ``exp``.
        smooth_prior: see :class:`Loss`.

    Attributes:
        eps: buffer (C,), float64.

    Raises:
        FitError: an unknown shape, or smoothing outside 0..1.
    """

    reference = "Zhong et al. (MiSLAS), CVPR 2021"
    equation = "(1 - eps_y) CE(z, y) + eps_y mean_c CE(z, c)"
    eps: Tensor

    def __init__(
        self,
        class_counts: Tensor,
        *,
        eps_head: float = 0.3,
        eps_tail: float = 0.0,
        shape: str = "sin",
        power: float = 2.0,
        smooth_prior: bool = False,
    ) -> None:
        super().__init__(class_counts, smooth_prior=smooth_prior)
        if shape not in SHAPES:
            raise FitError(f"loss.shape={shape!r} is none of {', '.join(SHAPES)}")
        for name, value in (("eps_head", eps_head), ("eps_tail", eps_tail)):
            if not 0 <= value <= 1:
                raise FitError(f"loss.{name}={value} must lie in 0..1")
        self.eps_head, self.eps_tail, self.shape, self.power = eps_head, eps_tail, shape, power
        self.register_buffer("eps", smoothing(self.class_counts, eps_head, eps_tail, shape, power))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See :meth:`Loss.forward`."""
        return smoothed_cross_entropy(logits, labels, self.eps.to(logits.dtype)[labels])

    @torch.no_grad()
    def gradient(self, logits: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`OffsetCrossEntropy.gradient`: softmax(z) - (1 - eps) onehot(y) - eps / C."""
        eps = self.eps.to(logits.dtype)[labels]
        rows = torch.arange(len(labels), device=logits.device)
        target = (1 - eps) * logits[rows, labels] + eps * logits.mean(dim=1)
        top = logits.amax(dim=1)
        torch.softmax(logits, dim=1, out=logits)
        losses = top - logits.amax(dim=1).log() - target
        logits[rows, labels] -= 1 - eps
        logits -= (eps / logits.shape[1])[:, None]
        logits *= weights.to(logits.dtype)[:, None]
        return losses, logits
