"""The places in an image tower where an adapter acts: one per block.

Transformer blocks take it in parallel to their MLP, on the residual stream: x is what enters the
second layer norm, and the delta joins what the MLP adds. Blocks of convolutional towers take it in
series, on their output (residual adapters: Rebuffi et al., Efficient parametrization of
multi-domain deep neural networks, CVPR 2018): an ``analogue`` of methods that state transformers
only. Adapters act through hooks, so the tensors of the tower keep their names, and so do
checkpointed and compiled blocks, which run the hooks again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from open_clip.modified_resnet import Bottleneck, ModifiedResNet
from open_clip.transformer import VisionTransformer
from timm.data import resolve_data_config
from torch import Tensor, nn

from ltcache.encoder.adapters.base import timm_trunk, tower_name
from ltcache.encoder.fields import HookNotes
from ltcache.errors import EncoderError

Delta = Callable[[Tensor], Tensor]


class AdapterSite:
    """A block of an image tower that adapters can be added to.

    Attributes:
        width: W of its tokens. block: the module.
        parallel: beside the MLP of a transformer, not after the block.
    """

    def __init__(self, width: int, block: nn.Module, ends: tuple[nn.Module, nn.Module] | None):
        self.width = width
        self.parallel = ends is not None
        self.block, self._ends = block, ends

    def add(self, module: Delta) -> None:
        """Add ``module(x)`` at this block, x and the delta being tokens (N, T, W).

        The hooks hold the module but do not register it as a part of the tower.
        """
        if self._ends is None:
            self.block.register_forward_hook(_SeriesHook(module))
            return
        entry, end = self._ends
        branch = _ParallelHooks(module)
        entry.register_forward_pre_hook(branch.note)
        end.register_forward_hook(branch.add)


def sites_of(visual: nn.Module) -> list[AdapterSite]:
    """Return the blocks of an image tower, from the input to the output.

    Raises:
        EncoderError: a tower whose blocks are not known.
    """
    if isinstance(visual, VisionTransformer):
        blocks: Any = visual.transformer.resblocks
        found = [AdapterSite(visual.transformer.width, b, (b.ln_2, b.ls_2)) for b in blocks]
    elif isinstance(visual, ModifiedResNet):
        bottlenecks = (m for m in visual.modules() if isinstance(m, Bottleneck))
        found = [AdapterSite(block.bn3.num_features, block, None) for block in bottlenecks]
    else:
        found = [] if timm_trunk(visual) is None else _timm_sites(visual)
    if not found:
        raise EncoderError(
            f"adapters do not know the blocks of this image tower: {tower_name(visual)}; tune its "
            "own weights, as full, bias and layer-norm do (adapters=none, image.train=full)"
        )
    return found


class _ParallelHooks:
    """Two hooks around an MLP. Methods and not closures, so that a copied model has its own."""

    def __init__(self, module: Delta) -> None:
        self._module = module
        self._noted = HookNotes()

    def note(self, entry: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._noted.found = inputs[0]

    def add(self, end: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x, self._noted.found = self._noted.found, None
        assert x is not None, "the second norm of a block runs before its end"
        return output + self._module(x)


class _SeriesHook:
    """A hook after a block: a map (N, W, H, W'), or tokens."""

    def __init__(self, module: Delta) -> None:
        self._module = module

    def __call__(self, block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if output.ndim != 4:
            return output + self._module(output)
        tokens = output.flatten(2).transpose(1, 2)
        delta = self._module(tokens).transpose(1, 2).unflatten(2, tuple(output.shape[2:]))
        return output + delta


def _timm_sites(visual: nn.Module) -> list[AdapterSite]:
    """Return the sites of a timm trunk, whose blocks and widths a run of shapes alone finds."""
    trunk = timm_trunk(visual)
    named = dict(trunk.named_modules())
    blocks: list[Any] = [named[name] for name in _block_names(trunk)]
    shapes = _run_of_shapes(visual)
    order = {module: place for place, module in enumerate(shapes)}
    found = []
    for block in blocks:
        ends = _mlp_ends(block)
        if ends is not None and order.get(ends[0], len(order)) < order.get(block.mlp, 0):
            found.append(
                AdapterSite(shapes[ends[0]][-1], block, ends)
            )  # the norm runs before the MLP
        elif block in shapes and len(shapes[block]) == 3:
            found.append(AdapterSite(shapes[block][2], block, None))
        elif block in shapes and any(isinstance(part, nn.Conv2d) for part in block.modules()):
            found.append(AdapterSite(shapes[block][1], block, None))  # without one, (N, H, W', W)
    return found


def _block_names(trunk: Any) -> Iterator[str]:
    """Yield the names of a trunk's blocks, as timm's own grouping of parameters tells them."""
    if not hasattr(trunk, "group_matcher"):
        return
    blocks = trunk.group_matcher(coarse=False).get("blocks", [])
    patterns = [(blocks, None)] if isinstance(blocks, str) else blocks
    for name, _ in trunk.named_modules():
        if any(fixed is None and re.fullmatch(pattern, name) for pattern, fixed in patterns):
            yield name


def _mlp_ends(block: Any) -> tuple[nn.Module, nn.Module] | None:
    """Return the norm before a transformer block's MLP and what its branch ends with, if any."""
    end = getattr(block, "ls2", None) or getattr(block, "drop_path2", None)
    entry = getattr(block, "norm2", None)
    if entry is None or end is None or not hasattr(block, "mlp"):
        return None
    return entry, end


def _run_of_shapes(visual: Any) -> dict[nn.Module, torch.Size]:
    """Return the shape of what each module gives, in the order in which they end, of a forward
    pass on the meta device: without arithmetic."""
    shapes: dict[nn.Module, torch.Size] = {}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            shapes[module] = output.shape

    hooks = [module.register_forward_hook(note) for module in visual.modules()]
    state = {**dict(visual.named_parameters()), **dict(visual.named_buffers())}
    meta = {name: tensor.detach().to("meta") for name, tensor in state.items()}
    dtype = next(visual.parameters()).dtype
    known = getattr(visual, "image_size", None)  # of open_clip's wrapper
    size = known or resolve_data_config(model=visual)["input_size"][1:]
    images = torch.empty(2, 3, *size, device="meta", dtype=dtype)
    try:
        torch.func.functional_call(visual, meta, (images,))
    finally:
        for hook in hooks:
            hook.remove()
    return shapes
