"""AdaptFormer, as LIFT fine-tunes CLIP with it."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from ltcache.encoder.adapters.base import (
    AdapterContext,
    TowerAdapter,
    generator_of,
    require_positive,
)
from ltcache.encoder.adapters.sites import sites_of
from ltcache.errors import UsageError


class BottleneckAdapter(nn.Module):
    """scale * up(ReLU(down(LN(x)))): tokens (N, T, W) -> (N, T, W), zero at the start.

    Start values as in LIFT's code: down is normal with variance 1 / (3 W), up and both biases are
    zero, scale is one.
    """

    def __init__(self, width: int, bottleneck: int, generator: Generator) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        self.scale = nn.Parameter(torch.ones(1))
        with torch.no_grad():
            drawn = torch.randn(bottleneck, width, generator=generator)
            self.down.weight.copy_(drawn * (3 * width) ** -0.5)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the delta."""
        found: Tensor = self.up(torch.relu(self.down(self.norm(tokens)))) * self.scale
        return found


class AdaptFormer(TowerAdapter):
    """A bottleneck beside the MLP of every block; after every block of a convolutional tower.

    Args:
        bottleneck: rows of down; None: 2^floor(log2(C / (2 L))), at least 1, for C classes and L
            blocks, as LIFT chooses it.
    """

    fidelity = "exact"  # for transformers; an analogue for convolutional towers
    reference = "Chen et al., AdaptFormer, NeurIPS 2022; Shi et al., LIFT, ICML 2024"
    equation = "h = x + MLP(LN(x)) + s up(ReLU(down(LN'(x))))"

    def __init__(
        self,
        visual: nn.Module,
        *,
        seed: int,
        context: AdapterContext,
        bottleneck: int | None = None,
    ) -> None:
        super().__init__(visual, seed=seed, context=context)
        sites = sites_of(visual)
        if bottleneck is None:
            bottleneck = lift_bottleneck(context.num_classes, len(sites))
        require_positive("adaptformer", bottleneck=bottleneck)
        self.options = {"bottleneck": bottleneck}
        generator = generator_of(seed)
        self.blocks = nn.ModuleList(
            BottleneckAdapter(s.width, bottleneck, generator) for s in sites
        )

    def attach(self, visual: nn.Module) -> None:
        """See :meth:`TowerAdapter.attach`."""
        for site, block in zip(sites_of(visual), self.blocks, strict=True):
            site.add(block)


def lift_bottleneck(num_classes: int | None, blocks: int) -> int:
    """Return 2^floor(log2(C / (2 L))), so that adapters have about as many weights as the head.

    Raises:
        UsageError: C is not known.
    """
    if num_classes is None:
        raise UsageError("adaptformer.bottleneck follows from the number of classes; state either")
    return int(2 ** max(0, math.floor(math.log2(num_classes / (2 * blocks)))))
