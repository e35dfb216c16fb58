"""The language-guided head of VL-LTR (Tian et al., VL-LTR: Learning class-wise visual-linguistic
representation for long-tailed visual recognition, ECCV 2022) with its anchor sentences."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.heads.base import Head, HeadContext

_BLOCK = 4096  # sentences scored at once


class LanguageGuidedHead(Head):
    """log(alpha softmax(z1) + (1 - alpha) softmax(z2)) of two classifiers that are trained apart.

    z1 is a network of one hidden layer on the feature f. z2_c = scale cos(f, v_c(f)), v_c(f) the
    sentences K_c of the class, weighted by softmax_m(<W_q LN(f), W_k LN(K_cm)> / sqrt(D)), where
    W_q and W_k start as the identity and there are no values. The anchor sentences of a class are
    those that its training images are most likely for, among all training images.

    Args:
        alpha: weight of the classifier without text at prediction; 0.2, 0.7 on iNaturalist.
        anchors: sentences of each class, at most. hidden: layer of z1; None: 4 D.
        scale: of the cosine; None: the encoder's logit_scale.

    Attributes:
        sentences: anchor sentences, zeros beyond the last of a class, buffer (C, M, D).
        there: which of them there are, buffer (C, M), bool.
        products: inner products of the sentences of each class, buffer (C, M, M).

    Raises:
        FitError: a weight outside 0..1, or no anchor.
    """

    inits = ("random",)
    keeps = ("directions",)
    reads_sentences = True
    sized_by_state = ("sentences", "there", "products")
    at_prediction = ("alpha",)
    num_experts = 2
    equation = "log(alpha softmax(z1) + (1 - alpha) softmax(s cos(f, sum_m a_cm K_cm)))"
    sentences: Tensor
    there: Tensor
    products: Tensor

    def __init__(
        self,
        context: HeadContext,
        *,
        alpha: float = 0.2,
        anchors: int = 64,
        hidden: int | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__(context)
        if not 0 <= alpha <= 1 or anchors < 1:
            raise FitError(
                f"head.alpha={alpha} must lie in 0..1, and anchors={anchors} must be at least 1"
            )
        self.alpha, self.anchors, self.hidden = alpha, anchors, hidden
        self.scale = context.scale_or(scale)
        dim, classes, width = context.dim, context.num_classes, hidden or 4 * context.dim
        self.inner, self.outer = nn.Linear(dim, width), nn.Linear(width, classes)
        self.query = nn.Parameter(torch.eye(dim))
        self.key = nn.Parameter(torch.eye(dim))
        self.query_norm, self.key_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.register_buffer("sentences", torch.zeros(classes, 1, dim))
        self.register_buffer("there", torch.ones(classes, 1, dtype=torch.bool))
        self.register_buffer("products", torch.zeros(classes, 1, 1))

    def represent(self, features: Tensor) -> Tensor:
        """Return the features for either classifier, (2, N, D)."""
        return features.expand(2, *features.shape)

    def classify(self, representation: Tensor) -> Tensor:
        """Return (2, N, C): the logits without text, then those of the sentences."""
        plain = self.outer(torch.relu(self.inner(representation[0])))
        return torch.stack([plain, self.text_logits(representation[1])])

    def text_logits(self, features: Tensor) -> Tensor:
        """Return scale cos(f, v_c(f)), (N, C).

        v_c = sum_m a_m K_m is never made: <f, v_c> = sum_m a_m <f, K_m>, and |v_c|**2 follows from
        the sentences' inner products.
        """
        keys = self.key_norm(self.sentences) @ self.key.T  # (C, M, D)
        queries = self.query_norm(features) @ self.query.T  # (N, D)
        scores = torch.einsum("nd,cmd->ncm", queries, keys) / self.dim**0.5
        weights = scores.masked_fill(~self.there, -torch.inf).softmax(dim=2)  # (N, C, M)
        along = torch.einsum("nd,cmd->ncm", F.normalize(features, dim=1), self.sentences)
        squared = (torch.einsum("ncm,cmk->nck", weights, self.products) * weights).sum(dim=2)
        return self.scale * (along * weights).sum(dim=2) / squared.clamp(min=1e-12).sqrt()

    def combine(self, logits: Tensor) -> Tensor:
        """Return (N, C): the logarithm of the weighted probabilities."""
        plain, text = logits.log_softmax(dim=2)
        tiny = torch.finfo(logits.dtype).tiny
        parts = [
            part + logits.new_full((), weight).clamp(min=tiny).log()
            for part, weight in ((plain, self.alpha), (text, 1 - self.alpha))
        ]
        return torch.logaddexp(*parts)

    def initialise(
        self,
        how: str,
        features: Tensor,
        labels: Tensor,
        generator: Generator,
        context: HeadContext,
    ) -> None:
        """See :meth:`Head.initialise`; chooses the anchor sentences as well."""
        self.require_known(how)
        with torch.no_grad():
            for layer in (self.inner, self.outer):
                drawn = torch.randn(layer.weight.shape, generator=generator).clamp_(-2, 2)
                layer.weight.copy_(0.02 * drawn)
                layer.bias.zero_()
            chosen, there = anchor_sentences(
                context.sentence_directions().to(features),
                features,
                labels,
                scale=self.scale,
                most=self.anchors,
            )
            self.sentences, self.there = chosen, there
            self.products = chosen @ chosen.mT


def anchor_sentences(
    sentences: Tensor, features: Tensor, labels: Tensor, *, scale: float, most: int
) -> tuple[Tensor, Tensor]:
    """Return the sentences of each class that speak best for its training images.

    A sentence t of class c scores -mean over rows i of c of log softmax_i(scale cos(t, f_i)), the
    softmax over all rows; the ``most`` lowest stay. A class without rows keeps its first ones.

    Args:
        sentences: (C, M, D), zeros beyond the last of a class. features: (N, D). labels: (N,).

    Returns:
        Sentences (C, M', D), M' at most ``most``, and which of them there are, (C, M').
    """
    classes, number, dim = sentences.shape
    there = sentences.abs().sum(dim=2) > 0  # (C, M)
    if number > most:
        rows = F.normalize(features, dim=1)
        counts = torch.bincount(labels, minlength=classes)
        owner = torch.arange(classes, device=labels.device).repeat_interleave(number)
        flat = F.normalize(sentences.reshape(-1, dim), dim=1)
        scores = flat.new_empty(len(flat))
        for start in range(0, len(flat), _BLOCK):
            part = slice(start, start + _BLOCK)
            likely = (scale * flat[part] @ rows.T).log_softmax(dim=1)  # (B, N)
            own = labels == owner[part, None]
            scores[part] = -(likely * own).sum(dim=1) / counts[owner[part]].clamp(min=1)
        scores = scores.view(classes, number).masked_fill(~there, torch.inf)
        kept = scores.argsort(dim=1, stable=True)[:, :most]  # (C, M')
        sentences = sentences.gather(1, kept[:, :, None].expand(-1, -1, dim))
        there = there.gather(1, kept)
    return sentences.clone(), there
