"""SADE (also TADE): three experts for three priors (Zhang et al., Self-supervised aggregation of
diverse experts for test-agnostic long-tailed recognition, NeurIPS 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from ltcache.errors import FitError
from ltcache.losses import Loss
from ltcache.objectives.base import HeadOutputs, Objective, TrainingBatch

_IN_LOG = 1e-9


def inverse_prior(prior: Tensor) -> Tensor:
    """Return the same values in reversed order of rank, (C,): the largest for the rarest class.

    Equal values are told apart by class number, as in the released code.
    """
    ascending = prior.argsort(stable=True)
    result = torch.empty_like(prior)
    result[ascending] = prior[ascending.flip(0)]
    return result


class SadeObjective(Objective):
    """L(z_1) + L(z_2 + log pi) + L(z_3 + log pi - tau log pi'), pi' the inverse prior.

    The first expert keeps the prior, the second none, the third turns it round. Without imbalance
    all three losses are that of the base.

    Args:
        loss: one that leaves the prior alone: cross entropy in the original.
        tau: how far the third goes; 2, and 1 on Places-LT and iNaturalist.

    Attributes:
        offsets: of the logits in training, buffer (3, C), float64.

    Raises:
        FitError: a loss that corrects the prior itself; in training, another number of experts
            than three.
    """

    corrects: ClassVar[Literal["none", "partial", "full"]] = "partial"
    offsets: Tensor

    def __init__(self, loss: Loss, *, tau: float = 2.0) -> None:
        super().__init__(loss)
        if loss.corrects != "none":
            raise FitError(
                f"objective=sade adds the prior itself, and {type(loss).__name__} would correct it "
                "a second time; take loss=cross_entropy"
            )
        self.tau = tau
        log_prior = (loss.prior + _IN_LOG).log()
        turned = log_prior - tau * (inverse_prior(loss.prior) + _IN_LOG).log()
        offsets = torch.stack([torch.zeros_like(log_prior), log_prior, turned])
        self.register_buffer("offsets", offsets)

    def forward(self, outputs: HeadOutputs, batch: TrainingBatch, progress: float) -> Tensor:
        """See :meth:`Objective.forward`."""
        self.require_experts(outputs, 3)
        offsets = self.offsets.to(outputs.experts.dtype)
        first, *others = (
            self.mean_loss(logits + offset, batch, progress)
            for logits, offset in zip(outputs.experts, offsets, strict=True)
        )
        return first + others[0] + others[1]
