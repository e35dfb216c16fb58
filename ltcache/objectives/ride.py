"""RIDE: experts that are pushed apart (Wang et al., Long-tailed recognition by routing diverse
distribution-aware experts, ICLR 2021)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.losses import Loss
from ltcache.objectives.base import HeadOutputs, Objective, TrainingBatch


class RideObjective(Objective):
    """sum_e loss(z_e) + delta mean(T)**2 KL(softmax(m / T) || softmax(z_e / T)), m the mean.

    m is the detached mean of the experts' logits. From ``reweight_from`` on T differs by class,
    lower for rarer ones: T_c = temperature w_c, w_c = (C pi_c r + 1 - r) / max. With one expert
    the divergence is zero. The router of the original only saves computing, and is left out.

    Args:
        loss: of each expert; LDAM with deferred weights or cross entropy in the original.
        delta: weight of the divergence; negative pushes the experts apart.
        temperature: T before it differs by class.
        reweight_factor: r, 0 (equal temperatures) to 1 (in proportion to the prior).
        reweight_from: share of the training after which T differs; that of the loss's weights.

    Attributes:
        relative_temperature: w, buffer (C,), float64.

    Raises:
        FitError: a temperature that is not positive, or a factor outside 0..1.
    """

    relative_temperature: Tensor

    def __init__(
        self,
        loss: Loss,
        *,
        delta: float = -0.2,
        temperature: float = 1.0,
        reweight_factor: float = 0.05,
        reweight_from: float = 0.8,
    ) -> None:
        super().__init__(loss)
        if temperature <= 0:
            raise FitError(f"objective.temperature={temperature} must be positive")
        if not 0 <= reweight_factor <= 1:
            raise FitError(f"objective.reweight_factor={reweight_factor} must lie in 0..1")
        self.delta, self.temperature = delta, temperature
        self.reweight_factor, self.reweight_from = reweight_factor, reweight_from
        relative = len(loss.prior) * loss.prior * reweight_factor + 1 - reweight_factor
        self.register_buffer("relative_temperature", relative / relative.max())

    def forward(self, outputs: HeadOutputs, batch: TrainingBatch, progress: float) -> Tensor:
        """See :meth:`Objective.forward`."""
        experts = outputs.experts
        temperature = self.temperatures(progress).to(experts.dtype)
        mean = F.log_softmax(experts.detach().mean(dim=0) / temperature, dim=1)  # (N, C)
        weights = self.sample_weights(batch).to(experts.dtype)
        factor = self.delta * temperature.mean() ** 2
        total = experts.new_zeros(())
        for logits in experts:
            own = F.log_softmax(logits / temperature, dim=1)
            apart = F.kl_div(own, mean, reduction="none", log_target=True).sum(dim=1)  # (N,)
            total = total + self.mean_loss(logits, batch, progress) + factor * (apart @ weights)
        return total

    def temperatures(self, progress: float) -> Tensor:
        """Return T of each class, (C,), at a time of the training."""
        if progress < self.reweight_from:
            return torch.full_like(self.relative_temperature, self.temperature)
        return self.temperature * self.relative_temperature
