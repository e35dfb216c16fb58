"""Tip-Adapter (Zhang et al., Training-free adaption of CLIP for few-shot classification, ECCV 2022)
for long tails: zero-shot logits plus affinities to stored training rows."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.heads.base import Head, HeadContext
from ltcache.heads.neighbours import label_counts, row_blocks, spaced_rows
from ltcache.heads.zero_shot import zero_shot_logits


class TipAdapterHead(Head):
    """z_c = s <x, t_c> + alpha a_c, a_c = (shots / k_c) sum over its k_c keys of
    exp(-beta (1 - <x, key>)).

    The paper's classes have ``shots`` keys each, where the factor is 1. Classes of a long tail have
    fewer; without the factor, classes would win by their number of keys. Keys are rows spaced
    evenly over each class's rows (see :func:`spaced_rows`), where the paper draws them and
    averages ten augmented crops of each.

    Args:
        alpha: weight of the affinities. beta: how fast they fall.
        shots: most keys of a class. balanced: apply the factor.
        scale: s; None: the encoder's logit_scale.
    """

    fixed_representation = True
    keeps = ("text_features",)
    may_keep = ("projection",)
    sized_by_state = ("keys", "key_labels")
    at_prediction = ("alpha", "beta")
    inits: ClassVar[tuple[str, ...]] = ()
    equation = "z_c = s x t_c + alpha (K / k_c) sum_k exp(-beta (1 - x key_k))"
    context_text_features: Tensor
    context_projection: Tensor | None
    key_labels: Tensor
    keys: Tensor

    def __init__(
        self,
        context: HeadContext,
        *,
        alpha: float = 1.17,
        beta: float = 1.0,
        shots: int = 16,
        balanced: bool = True,
        scale: float | None = None,
    ) -> None:
        super().__init__(context)
        if shots < 1:
            raise FitError(f"head.shots={shots} must be at least 1")
        self.alpha, self.beta, self.shots, self.balanced = alpha, beta, shots, balanced
        self.scale = context.scale_or(scale)
        # Zero-shot and equal affinities hold nothing of the class counts; a sum over keys does,
        # up to the cap, and by no stated exponent. What is trained is up to its loss and sampler.
        self.residual = 0.0 if balanced and not self.inits else None
        self.register_buffer("key_labels", torch.zeros(0, dtype=torch.int64))
        self.make_keys(torch.zeros(0, context.dim))

    def make_keys(self, keys: Tensor) -> None:
        """Hold keys, (K, D); a subclass may train them."""
        self.register_buffer("keys", keys)

    def normalise(self, representation: Tensor) -> Tensor:
        """See :meth:`Head.normalise`: unit rows."""
        return F.normalize(representation, dim=-1)

    def classify(self, representation: Tensor) -> Tensor:
        """See :meth:`Head.classify`."""
        rows = self.normalise(representation)
        text = zero_shot_logits(
            rows, self.context_text_features, self.context_projection, self.scale
        )
        parts = [self.affinities(block) for block in row_blocks(rows[0], len(self.keys))]
        return text + self.alpha * torch.cat(parts)[None]

    def affinities(self, rows: Tensor) -> Tensor:
        """Return a_c, (N, C), for unit rows (N, D)."""
        near = torch.exp(self.beta * (rows @ self.keys.T - 1))
        if self.balanced:
            counts = label_counts(self.key_labels, self.num_classes)
            near = near * (self.shots / counts[self.key_labels].to(near.dtype))
        return near.new_zeros(len(rows), self.num_classes).index_add(1, self.key_labels, near)

    @torch.no_grad()
    def fit(
        self, features: Tensor, labels: Tensor, weights: Tensor | None, context: HeadContext
    ) -> None:
        """Store the keys; weights of rows play no part.

        Raises:
            FitError: class texts of another space.
        """
        context.require_texts()
        index = spaced_rows(labels, self.num_classes, self.shots)
        self.key_labels = labels[index].clone()
        self.make_keys(F.normalize(features[index], dim=1))


class TipAdapterFHead(TipAdapterHead):
    """Tip-Adapter-F: the same with keys that training moves, from those that are stored.

    Args:
        alpha, beta, shots, balanced, scale: see :class:`TipAdapterHead`.
    """

    inits = ("keys",)

    def make_keys(self, keys: Tensor) -> None:
        """Hold keys as a parameter; unlike rows, they need not stay of unit length."""
        self.keys = nn.Parameter(keys)

    def initialise(
        self,
        how: str,
        features: Tensor,
        labels: Tensor,
        generator: Generator,
        context: HeadContext,
    ) -> None:
        """See :meth:`Head.initialise`; ``keys`` are those that Tip-Adapter stores."""
        self.require_known(how)
        self.fit(features, labels, None, context)
