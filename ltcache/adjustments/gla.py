"""Generalized logit adjustment (Zhu et al., NeurIPS 2023): a head and zero-shot, each freed of its
own label prior. The released code lacks the long-tail part; the optimiser here is our choice."""

from __future__ import annotations

import torch
from torch import Tensor

from ltcache.adjustments.base import Adjustment
from ltcache.errors import FitError
from ltcache.heads import Head, HeadContext, spaced_rows, zero_shot_logits
from ltcache.losses import class_prior
from ltcache.process import to_device

_HELD = 1 << 27  # zero-shot logits held while the prior is estimated, 512 MiB
_BLOCK = 4096


class GeneralizedLogitAdjustment(Adjustment):
    """z + z_zs - residual log pi - log q, q the label prior of zero-shot's own training.

    q minimises the class-balanced risk of softmax(z_zs - log q) on training rows, over all
    distributions. In log q this is convex, and at the minimum zero-shot names every class equally
    often on a balanced sample.

    Args:
        residual: exponent of the prior that the logits of ``base`` carry: 1 for cross entropy on
            rows as they come, as in the paper; 0 takes log pi off no balanced head.
        scale: of the zero-shot logits; None: the encoder's logit_scale.
        smooth_prior: take (n + 1) / sum(n + 1) as the prior; else a class without rows is refused.
            Such a class gets the mean of the other classes' log q, since no row tells of it.
    """

    keeps = ("text_features",)
    may_keep = ("projection",)
    equation = "z + z_zs - log pi - log q"
    context_text_features: Tensor
    context_projection: Tensor | None
    log_prior: Tensor
    log_q: Tensor

    def __init__(
        self,
        base: Head,
        context: HeadContext,
        *,
        residual: float = 1.0,
        scale: float | None = None,
        smooth_prior: bool = False,
    ) -> None:
        super().__init__(base, context)
        self.residual, self.smooth_prior = residual, smooth_prior
        self.scale = context.scale_or(scale)
        self.register_buffer("log_prior", class_prior(context.class_counts, smooth_prior).log())
        self.register_buffer("log_q", torch.zeros_like(self.log_prior))

    def zero_shot(self, features: Tensor) -> Tensor:
        """Return the zero-shot logits, (N, C)."""
        texts, projection = self.context_text_features, self.context_projection
        return zero_shot_logits(features, texts, projection, self.scale)

    def adjust(self, logits: Tensor, features: Tensor) -> Tensor:
        """See :meth:`Adjustment.adjust`."""
        assert self.residual is not None
        offset = self.residual * self.log_prior + self.log_q
        return logits + self.zero_shot(features) - offset.to(logits.dtype)

    @torch.no_grad()
    def fit(
        self, features: Tensor, labels: Tensor, weights: Tensor | None, context: HeadContext
    ) -> None:
        """Estimate q; where logits would not fit into memory, on evenly spaced rows of each class.

        Raises:
            FitError: class texts of another space.
        """
        context.require_texts()
        most = max(1, _HELD // self.num_classes**2)
        index = spaced_rows(labels, self.num_classes, most)
        chosen = None if weights is None else weights[index]
        logits = self.zero_shot(features[index])
        there, own = torch.unique(labels[index], return_inverse=True)
        found = balanced_log_prior(logits[:, there], own, chosen)
        whole = found.mean().repeat(self.num_classes)
        whole[there] = found
        self.log_q.copy_(whole if len(there) == len(whole) else torch.log_softmax(whole, dim=0))

    def residual_after(self, residual: float | None) -> float | None:
        """See :meth:`Adjustment.residual_after`."""
        return None if residual is None else residual - (self.residual or 0.0)


def balanced_log_prior(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Return log q, (C,), float64: see :class:`GeneralizedLogitAdjustment`.

    L-BFGS in double precision on log q; a softmax has no use for the constant, so that no
    constraint is needed, and q is brought to sum 1 at the end. It decides by numbers, step after
    step: log q is moved on the host, and what rows say of it is read once per evaluation.

    Args:
        logits: zero-shot, (N, C). labels: (N,). weights: of the rows, (N,), or None.

    Raises:
        FitError: a class without rows.
    """
    classes = logits.shape[1]
    own = torch.ones(len(labels), dtype=torch.float64, device=labels.device)
    own = own if weights is None else weights.double()
    total = own.new_zeros(classes).index_add_(0, labels, own)
    if bool((total <= 0).any()):
        raise FitError("every class needs a training row to estimate the prior of zero-shot")
    share = own / total[labels] / classes  # sums to 1, and to 1 / C in each class
    log_q = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [log_q], max_iter=500, tolerance_grad=1e-9, tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        risk, named = own.new_zeros(()), own.new_zeros(classes)
        shift = to_device(log_q.detach(), labels.device)
        for start in range(0, len(labels), _BLOCK):
            part = slice(start, start + _BLOCK)
            logs = torch.log_softmax(logits[part].double() - shift, dim=1)
            risk -= share[part] @ logs.gather(1, labels[part, None])[:, 0]
            named += share[part] @ logs.exp()
        found = torch.cat([named, risk[None]]).cpu()
        log_q.grad = 1 / classes - found[:-1]  # of the risk, in log q
        return found[-1]

    optimiser.step(closure)
    return to_device(torch.log_softmax(log_q.detach(), dim=0), labels.device)
