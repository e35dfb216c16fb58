"""LoRA as parametrisations of the tower's own weights.

``nn.MultiheadAttention`` reads its weights without calling a layer, so a wrapper of layers (peft)
would have to rewrite it; :mod:`torch.nn.utils.parametrize` reaches every tensor, and removing it
leaves the sum in the tensor's place: a plain tower again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize

from ltcache.encoder.adapters.base import (
    AdapterContext,
    TowerAdapter,
    generator_of,
    require_positive,
)
from ltcache.encoder.adapters.sites import sites_of
from ltcache.heads import uniform


class LowRank(nn.Module):
    """W -> W + (alpha / r) B A, of the rows (O, I k k) of W; stacked matrices (query, key and
    value in one tensor) each have a B and an A of their own.

    A is uniform in +-1/sqrt(I k k), B zero.
    """

    def __init__(
        self, weight: Tensor, stacked: int, rank: int, alpha: float, generator: Generator
    ) -> None:
        super().__init__()
        rows, columns = weight.shape[0] // stacked, weight[0].numel()
        kept = min(rank, rows, columns)
        self.scale = alpha / rank
        self.down = nn.Parameter(uniform((stacked, kept, columns), columns, generator))
        self.up = nn.Parameter(torch.zeros(stacked, rows, kept))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight that the tower uses."""
        return weight + self.scale * (self.up @ self.down).reshape(weight.shape)


class LoRA(TowerAdapter):
    """A low-rank change of the attention weights of every block: query, key, value, output.

    Convolutional towers: of every dense or 1x1 convolution and linear layer of every block, and of
    CLIP's attention pool. The tensors' names end in ``parametrizations.NAME`` until the merge.

    Args:
        rank: r. alpha: the change is scaled by alpha / r; None: r. mlp: the MLP of a transformer's
            blocks too.
    """

    mergeable = True
    fidelity = "exact"
    reference = "Hu et al., LoRA, ICLR 2022"
    equation = "W' = W + (alpha / r) B A"

    def __init__(
        self,
        visual: nn.Module,
        *,
        seed: int,
        context: AdapterContext,
        rank: int = 8,
        alpha: float | None = None,
        mlp: bool = False,
    ) -> None:
        super().__init__(visual, seed=seed, context=context)
        require_positive("lora", rank=rank)
        self._seed = seed
        self.options = {"rank": rank, "alpha": rank if alpha is None else alpha, "mlp": mlp}

    def attach(self, visual: nn.Module) -> None:
        """See :meth:`TowerAdapter.attach`; the parameters are registered with the weights."""
        generator = generator_of(self._seed)
        for module, name, stacked in list(_weights(visual, self.options["mlp"])):
            weight = getattr(module, name)
            rank, alpha = self.options["rank"], self.options["alpha"]
            change = LowRank(weight, stacked, rank, alpha, generator)
            change.to(device=weight.device, dtype=weight.dtype)
            parametrize.register_parametrization(module, name, change)

    def merge(self, visual: nn.Module) -> None:
        """See :meth:`TowerAdapter.merge`."""
        for module in list(visual.modules()):
            for name, changes in list(getattr(module, "parametrizations", {}).items()):
                if any(isinstance(change, LowRank) for change in changes):
                    parametrize.remove_parametrizations(module, name, leave_parametrized=True)


class _AdaptedWeight(NamedTuple):
    module: Any
    name: str
    stacked: int


def _weights(visual: nn.Module, mlp: bool) -> Iterator[_AdaptedWeight]:
    """Yield the weights that are changed, in the order of the tower."""
    for site in sites_of(visual):
        for name, module in site.block.named_modules():
            if mlp or not (site.parallel and name.split(".")[0] == "mlp"):
                yield from _of_layer(name, module)
    if isinstance(visual, ModifiedResNet):
        for name, module in visual.attnpool.named_modules():
            yield from _of_layer(name, module)


def _of_layer(name: str, module: Any) -> Iterator[_AdaptedWeight]:
    if isinstance(getattr(module, "in_proj_weight", None), nn.Parameter):
        yield _AdaptedWeight(module, "in_proj_weight", 3)
    dense = isinstance(module, nn.Conv2d) and module.groups == 1
    if dense or isinstance(module, nn.Linear):
        yield _AdaptedWeight(module, "weight", 3 if name.endswith("qkv") else 1)
