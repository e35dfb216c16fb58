"""Gaussian discriminant analysis beside zero-shot (Wang et al., A hard-to-beat baseline for
training-free CLIP-based adaptation, ICLR 2024)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.heads.base import AffineWeights, Head, HeadContext
from ltcache.heads.moments import scatter, weighted_class_means
from ltcache.heads.zero_shot import joint_rows


class GDAHead(Head):
    """z = s <x, t_c> + alpha (w_c x + b_c); without class texts z = w_c x + b_c alone.

    x = f/|f|, w_c = P m_c, b_c = -m_c P m_c / 2 with class means m_c, the within-class covariance S
    of N rows and P = D ((N - 1) S + tr(S) I)^-1. The class prior is uniform, so that its logarithm,
    a constant, is left out: this is the correction for the long tail.

    Args:
        alpha: weight of the Gaussian part. scale: s; None: the encoder's logit_scale.
        text: add the zero-shot part where the context has class texts.
    """

    fixed_representation = True
    may_keep = ("text_features", "projection")
    at_prediction = ("alpha",)
    inits = ()
    unit_rows = True
    residual = 0.0  # one mean per class, one covariance, uniform prior
    equation = "z = s x t + alpha (W x + b), W = S^-1 m, b = -m S^-1 m / 2"
    context_text_features: Tensor | None
    context_projection: Tensor | None
    text_scale: Tensor
    weight: Tensor
    bias_vector: Tensor

    def __init__(
        self,
        context: HeadContext,
        *,
        alpha: float = 1.0,
        scale: float | None = None,
        text: bool = True,
    ) -> None:
        super().__init__(context)
        self.alpha, self.scale, self.text = alpha, scale, text
        if not text:
            self.context_text_features = self.context_projection = None
        there = self.context_text_features is not None
        self.register_buffer("text_scale", torch.tensor(context.scale_or(scale) if there else 0.0))
        self.register_buffer("weight", torch.zeros(context.num_classes, context.dim))
        self.register_buffer("bias_vector", torch.zeros(context.num_classes))

    def normalise(self, representation: Tensor) -> Tensor:
        """See :meth:`Head.normalise`: unit rows."""
        return F.normalize(representation, dim=-1)

    def classify(self, representation: Tensor) -> Tensor:
        """See :meth:`Head.classify`."""
        rows = self.normalise(representation)
        gaussian = F.linear(rows, self.weight, self.bias_vector)
        text = self.context_text_features
        if text is None:
            return gaussian
        unit = joint_rows(rows, self.context_projection)
        return self.text_scale * (unit @ text.T) + self.alpha * gaussian

    def affine(self) -> AffineWeights | None:
        """See :meth:`Head.affine`; None where the texts meet features through a projection."""
        text = self.context_text_features
        if text is None:
            return AffineWeights(self.weight, self.bias_vector)
        if self.context_projection is not None:
            return None
        weight = self.text_scale * text + self.alpha * self.weight
        return AffineWeights(weight, self.alpha * self.bias_vector)

    @torch.no_grad()
    def fit(
        self, features: Tensor, labels: Tensor, weights: Tensor | None, context: HeadContext
    ) -> None:
        """See :meth:`Head.fit`.

        Raises:
            FitError: a class without rows, or class texts of another space.
        """
        if self.context_text_features is not None:
            context.require_texts()
        rows = F.normalize(features, dim=1)
        means = weighted_class_means(rows, labels, weights, self.num_classes)
        weight, bias = discriminant(means, scatter(rows, labels, weights, means), len(rows))
        self.weight.copy_(weight)
        self.bias_vector.copy_(bias)


def discriminant(means: Tensor, within: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Return w (C, D) and b (C,) of :class:`GDAHead`.

    The ridge tr(S) I bounds the condition number by N, so that a Cholesky factor in double
    precision is safe. Without any scatter within classes P = I, which is nearest class mean.

    Args:
        means: (C, D), float64. within: (N - 1) S, (D, D), float64. rows: N.
    """
    dim = means.shape[1]
    trace = within.trace() / max(rows - 1, 1)
    if float(trace) <= 0:
        weight = means
    else:
        ridged = within + trace * torch.eye(dim, dtype=within.dtype, device=within.device)
        factor, failed = torch.linalg.cholesky_ex(ridged)
        if int(failed):
            raise FitError("the covariance within classes cannot be inverted; are features finite?")
        weight = dim * torch.cholesky_solve(means.T, factor).T
    return weight, -0.5 * (weight * means).sum(dim=1)
