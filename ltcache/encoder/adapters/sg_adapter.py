"""Semantic guidance inside the blocks, after Sage's SG-Adapter. Its equations are not public:
this is a reconstruction from the abstract, which says that descriptions of the classes guide the
image encoder's attention."""

from __future__ import annotations

from functools import partial

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ltcache.encoder.adapters.base import (
    AdapterContext,
    TowerAdapter,
    generator_of,
    require_positive,
)
from ltcache.encoder.adapters.sites import sites_of
from ltcache.errors import UsageError


class GuidanceAttention(nn.Module):
    """W_o softmax(q K^T / sqrt(b)) V: tokens (N, T, W) and texts (C, D) -> (N, T, W)."""

    def __init__(self, width: int, text_dim: int, bottleneck: int, generator: Generator) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, bottleneck, bias=False)
        self.key = nn.Linear(text_dim, bottleneck, bias=False)
        self.value = nn.Linear(text_dim, bottleneck, bias=False)
        self.output = nn.Linear(bottleneck, width, bias=False)
        with torch.no_grad():
            for layer in (self.query, self.key, self.value):
                drawn = torch.randn(layer.weight.shape, generator=generator)
                layer.weight.copy_(drawn * layer.in_features**-0.5)
        nn.init.zeros_(self.output.weight)

    def forward(self, tokens: Tensor, texts: Tensor) -> Tensor:
        """Return the delta."""
        queries = self.query(self.norm(tokens)).flatten(0, 1)[None, None]  # (1, 1, N T, b)
        keys, values = self.key(texts)[None, None], self.value(texts)[None, None]
        mixed = F.scaled_dot_product_attention(queries, keys, values)  # no (N T, C) in memory
        found: Tensor = self.output(mixed[0, 0]).unflatten(0, tokens.shape[:2])
        return found


class SGAdapter(TowerAdapter):
    """Tokens attend to the descriptions of the classes beside the MLP of every block (after every
    block of a convolutional tower).

    The descriptions are a frozen buffer, ``texts`` (C, D): unit rows less their mean over the
    classes, which all embeddings of texts share and no softmax sees, scaled to unit variance. With
    W_q, W_k and W_v drawn with variance 1 / inputs, scores start with a spread of about one;
    otherwise every token would attend to all classes alike.

    Args:
        bottleneck: b. classes, text_dim: C and D; they follow from the context's descriptions, and
            stand for them where the saved buffer is loaded afterwards.
    """

    fidelity = "reconstruction"
    reference = "Peng et al., Sage, arXiv 2507.12807 (equations not public)"
    equation = "h = x + MLP(LN(x)) + W_o softmax(q K^T / sqrt(b)) V, q = W_q LN'(x), K, V of T"
    needs = ("descriptions",)
    texts: Tensor

    def __init__(
        self,
        visual: nn.Module,
        *,
        seed: int,
        context: AdapterContext,
        bottleneck: int = 64,
        classes: int | None = None,
        text_dim: int | None = None,
    ) -> None:
        super().__init__(visual, seed=seed, context=context)
        require_positive("sg_adapter", bottleneck=bottleneck)
        texts = _texts(context.descriptions, classes, text_dim)
        self.register_buffer("texts", texts)
        rows, dim = texts.shape
        self.options = {"bottleneck": bottleneck, "classes": rows, "text_dim": dim}
        generator = generator_of(seed)
        self.blocks = nn.ModuleList(
            GuidanceAttention(site.width, dim, bottleneck, generator) for site in sites_of(visual)
        )

    def attach(self, visual: nn.Module) -> None:
        """See :meth:`TowerAdapter.attach`."""
        for site, block in zip(sites_of(visual), self.blocks, strict=True):
            site.add(partial(self.guide, block))

    def guide(self, block: nn.Module, tokens: Tensor) -> Tensor:
        """Return the delta of a block, with the texts where they are now."""
        found: Tensor = block(tokens, self.texts)
        return found


def _texts(given: Tensor | None, classes: int | None, text_dim: int | None) -> Tensor:
    """Return the buffer (C, D) for descriptions, or zeros of the shape that is known of them."""
    if given is None:
        if classes is None or text_dim is None:
            raise UsageError("sg_adapter needs the embeddings of class descriptions (C, D)")
        return torch.zeros(classes, text_dim)
    rows, dim = given.shape
    for name, known, found in (("classes", classes, rows), ("text_dim", text_dim, dim)):
        if known not in (None, found):
            raise UsageError(f"sg_adapter.{name}={known}, but the descriptions are {rows} x {dim}")
    unit = F.normalize(given.detach().to("cpu", torch.float32), dim=1)
    centred = unit - unit.mean(dim=0)
    return centred / centred.square().mean().sqrt().clamp(min=torch.finfo(torch.float32).tiny)
