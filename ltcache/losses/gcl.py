"""Gaussian clouded logits (Li et al., Long-tailed visual recognition via Gaussian clouded logit
adjustment, CVPR 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from ltcache.errors import FitError
from ltcache.losses.base import Loss
from ltcache.losses.focal import doubt_of
from ltcache.losses.ldam import label_margin
from ltcache.losses.softmax import softmax_residual_

_DEVIATION = 1 / 3  # of the noise, so that its limit of 1 lies at three deviations


def cloud(logits: Tensor, size: Tensor, generator: Generator | None) -> Tensor:
    """Return |xi| * size, (N, C), with xi ~ N(0, (1/3)**2) limited to -1..1, and size (C,)."""
    device = logits.device if generator is None else generator.device
    noise = torch.randn(logits.shape, generator=generator, dtype=logits.dtype, device=device)
    noise = noise.mul_(_DEVIATION).abs_().clamp_(max=1)
    return noise.to(logits.device).mul_(size.to(logits.dtype))


class GCL(Loss):
    """(1 - p_y)^gamma CE(z'), z' = z - s noise_mul |xi| m - s margin onehot(y), of scaled logits z.

    m_c = log(n_max / n_c) / log(n_max / n_min): the rarer a class, the larger the cloud around its
    logits, in training mode only; drawn from ``generator``. It raises rare classes by an amount
    that cannot be stated. No gradient goes through the focal factor.

    The released code has a first stage of scale 30 without margin and gamma, the defaults here, and
    a second one of scale 20, margin 0.1 and gamma 1 on classes drawn equally often.

    Args:
        class_counts: (C,).
        noise_mul: size of the noise of the rarest class, on cosines.
        margin: taken off the label's own cosine, the same for every class.
        gamma: of the focal factor; 0 is cross entropy.
        scale: s, that of the head, whose logits already contain it.
        smooth_prior: see :class:`Loss`; the counts are then n + 1.

    Attributes:
        size: s noise_mul m, buffer (C,), float64.

    Raises:
        FitError: a negative gamma.
    """

    reference = "Li et al., CVPR 2022"
    equation = (
        "(1 - p_y)^gamma CE(z_c - s k |xi| m_c - s m [c = y], y), xi ~ N(0, 1/9), "
        "m_c ~ log(n_max / n_c)"
    )
    corrects: ClassVar[Literal["none", "partial", "full"]] = "partial"
    size: Tensor

    def __init__(
        self,
        class_counts: Tensor,
        *,
        noise_mul: float = 0.5,
        margin: float = 0.0,
        gamma: float = 0.0,
        scale: float = 30.0,
        smooth_prior: bool = False,
    ) -> None:
        super().__init__(class_counts, smooth_prior=smooth_prior)
        if gamma < 0:
            raise FitError(f"loss.gamma={gamma} must not be negative")
        self.noise_mul, self.margin, self.gamma, self.scale = noise_mul, margin, gamma, scale
        rarity = self.prior.max().log() - self.prior.log()
        relative = rarity / rarity.max() if rarity.max() > 0 else rarity
        self.register_buffer("size", scale * noise_mul * relative)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See :meth:`Loss.forward`."""
        if self.training:
            logits = logits - cloud(logits, self.size, self.generator)
        lowered = logits.new_full((logits.shape[1],), self.scale * self.margin)
        losses = label_margin(logits, labels, lowered)
        return doubt_of(losses.detach()) ** self.gamma * losses

    @torch.no_grad()
    def gradient(self, logits: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`OffsetCrossEntropy.gradient`; draws as much as :meth:`forward`."""
        if self.training:
            logits -= cloud(logits, self.size, self.generator)
        rows = torch.arange(len(labels), device=logits.device)
        logits[rows, labels] -= self.scale * self.margin
        losses = softmax_residual_(logits, labels)
        factor = doubt_of(losses) ** self.gamma
        logits *= (factor * weights.to(logits.dtype))[:, None]
        return factor * losses, logits
