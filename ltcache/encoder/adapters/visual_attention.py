"""TIN's large-kernel attention where it acts: on the map that the end of the tower reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from ltcache.encoder.adapters.base import (
    AdapterContext,
    TowerAdapter,
    generator_of,
    timm_trunk,
    tower_name,
)
from ltcache.encoder.rest import ends_in_a_map
from ltcache.errors import EncoderError
from ltcache.heads import (
    LargeKernel,
    gated,
    gated_tokens,
    large_kernel,
    start_at_one,
)


class VisualAttention(TowerAdapter):
    """The map times P * D2 * D1 * map, as ``heads/visual_attention.py`` does on cached tokens.

    Where: the layer-4 map before the attention pool of CLIP's ResNets, the last map before the
    pooling of a convolutional timm trunk, and the patch tokens that enter the last block of a
    ViT, whose class token is not gated; a gate behind that block would change nothing, since the
    class token alone is read. It starts at one, bit for bit.

    Args:
        kernel: K. dilation: d. TIN states neither; VAN's are the defaults.
    """

    fidelity = "reconstruction"
    reference = "TIN; the attention: Guo et al., Visual attention network, 2023"
    equation = "x' = A(x) x, A = conv1x1(dwconv_d(dwconv(x)))"

    def __init__(
        self,
        visual: nn.Module,
        *,
        seed: int,
        context: AdapterContext,
        kernel: int = 21,
        dilation: int = 3,
    ) -> None:
        super().__init__(visual, seed=seed, context=context)
        self.options = {"kernel": kernel, "dilation": dilation}
        width = _place_of(visual).width
        self.near, self.far, self.pointwise = large_kernel(width, kernel, dilation)
        start_at_one(self._layers, generator_of(seed))
        self._grid, self._first = (0, 0), 0

    def attach(self, visual: nn.Module) -> None:
        """See :meth:`TowerAdapter.attach`."""
        place = _place_of(visual)
        if place.before is None:  # a method, no module: replaced in this one instance
            trunk = timm_trunk(visual)
            trunk.forward_head = _GatedHead(self, trunk.forward_head)
        elif place.grid is None:
            place.before.register_forward_pre_hook(self._gate_map)
        else:
            self._grid, self._first = place.grid, place.first
            place.before.register_forward_pre_hook(self._gate_tokens)

    def gate(self, planes: Tensor) -> Tensor:
        """Return maps (N, W, H, W') times their gate."""
        return gated(planes, self._layers)

    def _gate_map(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self.gate(inputs[0]), *inputs[1:])

    def _gate_tokens(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (gated_tokens(inputs[0], self._layers, self._grid, self._first), *inputs[1:])

    @property
    def _layers(self) -> LargeKernel:
        return LargeKernel(self.near, self.far, self.pointwise)


class _GatedHead:
    """A timm trunk's ``forward_head`` behind the gate; no closure, so that it can be copied."""

    def __init__(self, adapter: VisualAttention, head: Callable[..., Tensor]) -> None:
        self._adapter, self._head = adapter, head

    def __call__(self, planes: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self._head(self._adapter.gate(planes), *args, **kwargs)


class _AttentionPlace(NamedTuple):
    """width: of the map. before: the module that reads it, None: timm's ``forward_head``.
    grid, first: of a ViT's patches, and how many tokens stand before them."""

    width: int
    before: nn.Module | None
    grid: tuple[int, int] | None = None
    first: int = 0


def _place_of(visual: Any) -> _AttentionPlace:
    """Return where the gate acts in an image tower.

    Raises:
        EncoderError: nowhere that is known.
    """
    if isinstance(visual, VisionTransformer):
        last = visual.transformer.resblocks[-1]
        return _AttentionPlace(visual.transformer.width, last, visual.grid_size, 1)
    if isinstance(visual, ModifiedResNet):
        return _AttentionPlace(visual.attnpool.positional_embedding.shape[1], visual.attnpool)
    if (trunk := timm_trunk(visual)) is not None:
        if ends_in_a_map(trunk) and getattr(trunk, "output_fmt", "NCHW") == "NCHW":
            return _AttentionPlace(trunk.num_features, None)
        if hasattr(trunk, "num_prefix_tokens") and hasattr(trunk, "blocks"):
            grid = trunk.patch_embed.grid_size
            return _AttentionPlace(trunk.embed_dim, trunk.blocks[-1], grid, trunk.num_prefix_tokens)
    raise EncoderError(f"visual_attention has no place in this image tower: {tower_name(visual)}")
