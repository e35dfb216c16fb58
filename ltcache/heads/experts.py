"""Several experts on the same features: RIDE (Wang et al., ICLR 2021) and SADE (Zhang et al.,
NeurIPS 2022) with an adapter per expert where the papers train the last blocks of a network."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.heads.base import Head, HeadContext
from ltcache.heads.scored import CLASSIFIERS, check_choice, uniform


class ExpertsHead(Head):
    """r_e = f + U_e ReLU(V_e f + v_e) + u_e, a classifier per expert, the mean of their logits.

    U_e and u_e start at zero, so that every expert starts on the features themselves; V_e is drawn
    for each expert.

    Args:
        experts: E, 2 to 4 in the papers. classifier: ``linear`` or ``cosine``.
        scale: of the cosine. bottleneck: width of V_e f; None: D / 4.
    """

    inits_of_rows = ("class_mean",)
    equation = "r_e = f + MLP_e(f), z = mean_e z_e(r_e)"

    def __init__(
        self,
        context: HeadContext,
        *,
        experts: int = 3,
        classifier: str = "linear",
        scale: float = 30.0,
        bottleneck: int | None = None,
    ) -> None:
        super().__init__(context)
        check_choice("classifier", classifier, CLASSIFIERS)
        if experts < 1:
            raise FitError(f"head.experts={experts} must be at least 1")
        self.experts = self.num_experts = experts
        self.classifier, self.scale, self.bottleneck = classifier, scale, bottleneck
        self.unit_rows = classifier == "cosine"
        dim, classes = context.dim, context.num_classes
        hidden = bottleneck or max(1, dim // 4)
        self.down = nn.Parameter(torch.zeros(experts, hidden, dim))
        self.up = nn.Parameter(torch.zeros(experts, dim, hidden))
        self.weight = nn.Parameter(torch.zeros(experts, classes, dim))
        # Flat, because optimisers take a tensor of one dimension for a bias, which must not decay.
        self.down_bias = nn.Parameter(torch.zeros(experts * hidden))
        self.up_bias = nn.Parameter(torch.zeros(experts * dim))
        self.bias_vector = None if self.unit_rows else nn.Parameter(torch.zeros(experts * classes))

    def represent(self, features: Tensor) -> Tensor:
        """Return (E, N, D), after the adapters."""
        experts = self.experts
        hidden = features @ self.down.mT + self.down_bias.view(experts, 1, -1)
        return features + torch.relu(hidden) @ self.up.mT + self.up_bias.view(experts, 1, -1)

    def normalise(self, representation: Tensor) -> Tensor:
        """See :meth:`Head.normalise`: unit rows for the cosine."""
        return F.normalize(representation, dim=-1) if self.unit_rows else representation

    def classify(self, representation: Tensor) -> Tensor:
        """See :meth:`Head.classify`; expert e with its own weights."""
        rows = self.normalise(representation)
        if self.bias_vector is None:
            return self.scale * rows @ F.normalize(self.weight, dim=-1).mT
        return rows @ self.weight.mT + self.bias_vector.view(self.experts, 1, -1)

    def initialise(
        self,
        how: str,
        features: Tensor,
        labels: Tensor,
        generator: Generator,
        context: HeadContext,
    ) -> None:
        """See :meth:`Head.initialise`; adapters are drawn, all experts start from equal texts."""
        with torch.no_grad():
            for bias in (self.down_bias, self.up_bias, self.up):
                bias.zero_()
            self.down.copy_(uniform(tuple(self.down.shape), self.dim, generator))
        super().initialise(how, features, labels, generator, context)

    def random_weight(self, generator: Generator) -> Tensor:
        """Return (E, C, D), drawn for each expert."""
        shape = tuple(self.weight.shape)
        if self.unit_rows:
            return F.normalize(torch.randn(shape, generator=generator), dim=-1)
        return uniform(shape, self.dim, generator)

    def set_weight(self, weight: Tensor) -> None:
        """See :meth:`Head.set_weight`; (C, D) goes to every expert."""
        self.weight.copy_(weight.expand_as(self.weight))
        if self.bias_vector is not None:
            self.bias_vector.zero_()
