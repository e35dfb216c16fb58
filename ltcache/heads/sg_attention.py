"""Attention of a feature over the class texts: what of Sage's SG-Adapter (Peng et al., 2025) can
act after the encoder. Its equations are not public; the original sits inside the blocks."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ltcache.heads.base import HeadContext
from ltcache.heads.scored import ScoredHead


class SGAttentionHead(ScoredHead):
    """g(f) = f + gamma |f| W_o sum_c a_c W_v t_c, a = softmax_c(<W_q x, W_k t_c> / temperature),
    then a linear or cosine classifier on g(f); x = f/|f|, t_c the class texts among the features.

    gamma starts at zero: the classifier alone. All four matrices start as the projection on the
    leading directions of the class texts, so that attention follows the similarity of image and
    text from the first step; a random bottleneck would attend to all classes alike.

    Args:
        classifier: ``linear`` or ``cosine``. scale: of the cosine.
        bottleneck: rows of W_q, W_k and W_v, at most D and C.
        temperature: of the attention; cosines of CLIP differ by some hundredths between classes.
    """

    keeps = ("directions",)
    inits_of_rows = ("class_mean",)
    equation = "g(f) = f + gamma |f| W_o Attn(W_q x, W_k T, W_v T)"
    context_directions: Tensor

    def __init__(
        self,
        context: HeadContext,
        *,
        classifier: str = "cosine",
        scale: float = 25.0,
        bottleneck: int = 64,
        temperature: float = 0.05,
    ) -> None:
        super().__init__(context, classifier, scale)
        self.bottleneck, self.temperature = bottleneck, temperature
        width = min(bottleneck, context.dim, context.num_classes)
        self.query = nn.Parameter(torch.zeros(width, context.dim))
        self.key = nn.Parameter(torch.zeros(width, context.dim))
        self.value = nn.Parameter(torch.zeros(width, context.dim))
        self.output = nn.Parameter(torch.zeros(context.dim, width))
        self.gamma = nn.Parameter(torch.zeros(1))

    def represent(self, features: Tensor) -> Tensor:
        """Return g(f), (1, N, D)."""
        texts = self.context_directions
        queries = F.linear(F.normalize(features, dim=1), self.query)
        scores = queries @ F.linear(texts, self.key).T / self.temperature  # (N, C)
        mixed = torch.softmax(scores, dim=1) @ F.linear(texts, self.value)
        lengths = features.norm(dim=1, keepdim=True)
        return (features + self.gamma * lengths * F.linear(mixed, self.output))[None]

    def initialise(
        self,
        how: str,
        features: Tensor,
        labels: Tensor,
        generator: Generator,
        context: HeadContext,
    ) -> None:
        """See :meth:`Head.initialise`; the attention starts the same for all."""
        with torch.no_grad():
            self.gamma.zero_()
            texts = self.context_directions.double()
            leading = torch.linalg.svd(texts, full_matrices=False).Vh[: len(self.query)]
            for matrix in (self.query, self.key, self.value):
                matrix.copy_(leading)
            self.output.copy_(leading.T)
        super().initialise(how, features, labels, generator, context)
