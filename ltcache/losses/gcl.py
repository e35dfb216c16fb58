"""Gaussian clouded logits (Li et al., Long-tailed visual recognition via Gaussian clouded logit
adjustment, CVPR 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ltcache.losses.base import Loss
from ltcache.losses.softmax import offset_cross_entropy_

_DEVIATION = 1 / 3  # of the noise, so that its limit of 1 lies at three deviations


def cloud(logits: Tensor, size: Tensor, generator: Generator | None) -> Tensor:
    """Return |xi| * size, (N, C), with xi ~ N(0, (1/3)**2) limited to -1..1, and size (C,)."""
    device = logits.device if generator is None else generator.device
    noise = torch.randn(logits.shape, generator=generator, dtype=logits.dtype, device=device)
    noise = noise.mul_(_DEVIATION).abs_().clamp_(max=1)
    return noise.to(logits.device).mul_(size.to(logits.dtype))


class GCL(Loss):
    """CE(z - s noise_mul |xi| m), m_c = log(n_max / n_c) / log(n_max / n_min), of scaled logits z.

    The rarer a class, the larger the cloud around its logits, in training mode only; drawn from
    ``generator``. It raises rare classes by an amount that cannot be stated. Original: a second
    stage of class-balanced sampling follows.

    Args:
        class_counts: (C,).
        noise_mul: size of the noise of the rarest class, on cosines.
        scale: s, that of the head, whose logits already contain it.
        smooth_prior: see :class:`Loss`; the counts are then n + 1.

    Attributes:
        size: s noise_mul m, buffer (C,), float64.
    """

    reference = "Li et al., CVPR 2022"
    equation = "CE(z_c - s k |xi| m_c, y), xi ~ N(0, 1/9), m_c ~ log(n_max / n_c)"
    corrects: ClassVar[Literal["none", "partial", "full"]] = "partial"
    size: Tensor

    def __init__(
        self,
        class_counts: Tensor,
        *,
        noise_mul: float = 0.5,
        scale: float = 30.0,
        smooth_prior: bool = False,
    ) -> None:
        super().__init__(class_counts, smooth_prior=smooth_prior)
        self.noise_mul, self.scale = noise_mul, scale
        rarity = self.prior.max().log() - self.prior.log()
        relative = rarity / rarity.max() if rarity.max() > 0 else rarity
        self.register_buffer("size", scale * noise_mul * relative)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See :meth:`Loss.forward`."""
        if self.training:
            logits = logits - cloud(logits, self.size, self.generator)
        return F.cross_entropy(logits, labels, reduction="none")

    @torch.no_grad()
    def gradient(self, logits: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`OffsetCrossEntropy.gradient`; draws as much as :meth:`forward`."""
        if self.training:
            logits -= cloud(logits, self.size, self.generator)
        return offset_cross_entropy_(logits, labels, weights), logits
