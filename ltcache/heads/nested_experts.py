"""Experts on nested sets of ever rarer classes: a reconstruction of ACE's prediction (Cai et al.,
ACE: Ally complementary experts for solving long-tailed recognition in one-shot, ICCV 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from ltcache.heads.base import HeadContext
from ltcache.heads.experts import ExpertsHead
from ltcache.metrics import GroupScheme

_EXPERTS = 3  # for all, for medium- and few-shot, and for few-shot classes


class NestedExpertsHead(ExpertsHead):
    """z_c = mean over the experts responsible for c of a_e z_ec(r_e), r_e = f + MLP_e(f).

    Expert 1 is responsible for all classes, expert 2 for medium- and few-shot ones, expert 3 for
    few-shot ones. a_e = mean |W_1c| / mean |W_ec|, both over the classes of expert e, brings the
    logits of an expert to the range of the first one's. The publication says that logits are
    rescaled, but we could not read how: this is a choice of our own.

    Args:
        bottleneck: width of an expert's hidden layer; None: D / 4.
        rescale: False: all a_e are 1.
        many_above: a class with more training rows is many-shot.
        few_below: a class with fewer is few-shot.

    Attributes:
        reach: experts responsible for a class, 1..3, buffer (C,), int64.
    """

    equation = "z_c = mean_{e responsible for c} a_e z_ec(f + MLP_e(f))"
    reach: Tensor

    def __init__(
        self,
        context: HeadContext,
        *,
        bottleneck: int | None = None,
        rescale: bool = True,
        many_above: int = GroupScheme.many_above,
        few_below: int = GroupScheme.few_below,
    ) -> None:
        super().__init__(context, experts=_EXPERTS, bottleneck=bottleneck)
        self.rescale, self.many_above, self.few_below = rescale, many_above, few_below
        self.register_buffer("reach", class_reach(context.class_counts, many_above, few_below))

    def responsible(self) -> Tensor:
        """Return whether each expert is responsible for each class, (3, C)."""
        return self.reach > torch.arange(_EXPERTS, device=self.reach.device)[:, None]

    def factors(self) -> Tensor:
        """Return a_e, (3,); 1 for an expert without classes."""
        if not self.rescale:
            return self.weight.new_ones(_EXPERTS)
        own = self.responsible().to(self.weight.dtype)  # (3, C)
        lengths = self.weight.norm(dim=2)
        first, each = (lengths[0] * own).sum(dim=1), (lengths * own).sum(dim=1)
        return torch.where((first > 0) & (each > 0), first / each.clamp(min=1e-12), 1.0)

    def combine(self, logits: Tensor) -> Tensor:
        """Return (N, C) for (3, N, C): the mean over the experts responsible for each class."""
        share = self.responsible() * self.factors()[:, None] / self.reach  # (3, C)
        return (logits * share[:, None].to(logits.dtype)).sum(dim=0)


def class_reach(class_counts: Tensor, many_above: int, few_below: int) -> Tensor:
    """Return how many of three nested groups of classes hold a class, (C,), int64: 1 for many-shot,
    2 for medium-shot and 3 for few-shot classes."""
    return 1 + (class_counts <= many_above).long() + (class_counts < few_below).long()
