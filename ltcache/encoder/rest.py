"""Tokens, and the rest of the image tower that makes the embedding of them.

``tokens`` (N, T, P) are the map that an attention over patches can still change (TIN's visual
attention multiplies it): what enters the last block of open_clip's ViT, class token first; the
layer-4 map before the attention pool of CLIP's ResNets; the last map before the pooling of a
convolutional timm trunk. Maps (N, P, H, W) are laid out row by row, T = H * W.

What comes after is small. It is saved with a cache that holds tokens, so that heads compute
``rest(gate(tokens))`` from the cache alone; :func:`build_rest` makes the module again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from open_clip import CLIP
from open_clip.model import CustomTextCLIP, _build_vision_tower
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from ltcache.encoder.fields import HookNotes
from ltcache.encoder.identity import ACTIVATIONS
from ltcache.encoder.random_start import skip_random_start
from ltcache.errors import EncoderError

TOKENS = "tokens"


class TowerEnd(nn.Module):
    """Tokens (N, T, P) -> embedding (N, D), not normalised; differentiable, its weights frozen.

    Args:
        visual: an image tower of which only the part behind the tokens is used.
        grid: height and width of the map; of a ViT those of its patches.
    """

    def __init__(self, visual: nn.Module, grid: tuple[int, int]) -> None:
        super().__init__()
        self.visual = visual
        self.grid = grid

    @property
    def class_token(self) -> bool:
        """Whether the first token is no part of the map."""
        return isinstance(self.visual, VisionTransformer)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the embeddings of tokens."""
        visual: Any = self.visual
        if isinstance(visual, VisionTransformer):
            pooled, _ = visual._pool(visual.transformer.resblocks[-1](tokens))
            projected: Tensor = pooled @ visual.proj
            return projected
        planes = tokens.transpose(1, 2).unflatten(2, self.grid)  # (N, P, H, W)
        if isinstance(visual, ModifiedResNet):
            found: Tensor = visual.attnpool(planes)
        else:
            found = visual.head(visual.trunk.forward_head(planes))
        return found


class TokenHook:
    """Notes the tokens while a tower runs, without changing a bit of what it computes.

    Attributes:
        shape: (T, P). grid: height and width of the map.
    """

    def __init__(self, visual: Any) -> None:
        self._noted = HookNotes()
        self.visual = visual
        self.shape: tuple[int, int] | None = None
        self.grid: tuple[int, int] = (0, 0)
        if isinstance(visual, VisionTransformer):
            visual.transformer.resblocks[-1].register_forward_pre_hook(self._hook)
            self.grid = visual.grid_size
        elif isinstance(visual, ModifiedResNet):
            visual.attnpool.register_forward_pre_hook(self._hook)
        else:  # a method, no module: noted on its way through this one instance
            visual.trunk.forward_head = partial(self._through, visual.trunk.forward_head)

    @contextmanager
    def noting(self) -> Iterator[dict[str, Tensor]]:
        """Run the tower inside; the dictionary then holds ``tokens``."""
        found: dict[str, Tensor] = {}
        self._noted.found = found
        try:
            yield found
        finally:
            self._noted.found = None

    def _hook(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._note(inputs[0])

    def _through(
        self, head: Callable[..., Tensor], planes: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        self._note(planes)
        return head(planes, *args, **kwargs)

    def _note(self, values: Tensor) -> None:
        found = self._noted.found
        if found is None:
            return
        if values.ndim == 4:
            self.grid = (values.shape[2], values.shape[3])
            values = values.flatten(2).transpose(1, 2)
        found[TOKENS] = values.clone()  # blocks may work in place


def tap_of(model: Any) -> TokenHook | None:
    """Return what notes the tokens of a model's image tower, or None where it has none."""
    visual = model.visual
    if not isinstance(model, (CLIP, CustomTextCLIP)):
        return None
    if type(visual) is VisionTransformer:
        whole = visual.proj is not None and visual.pool_type != "none" and not visual.output_tokens
        return TokenHook(visual) if whole and visual.transformer.batch_first else None
    if type(visual) is ModifiedResNet:
        return TokenHook(visual)
    convolutional = type(visual) is TimmModel and ends_in_a_map(visual.trunk)
    return TokenHook(visual) if convolutional else None


def ends_in_a_map(trunk: Any) -> bool:
    """Whether a trunk's last features are a map (N, P, H, W)."""
    return (
        hasattr(trunk, "forward_head")
        and isinstance(
            next((m for m in trunk.modules() if isinstance(m, (nn.Conv2d, nn.Linear))), None),
            nn.Conv2d,
        )
        and not hasattr(trunk, "pos_embed")
        and not hasattr(trunk, "patch_embed")  # Swin's map is (N, H, W, P)
    )


def save_rest(tap: TokenHook) -> dict[str, np.ndarray]:
    """Return the tensors of the rest, float32, with the map's size; see :func:`build_rest`."""
    used = _used_modules(tap)
    state = {
        name: tensor
        for name, tensor in tap.visual.state_dict().items()
        if name in used or name.rpartition(".")[0] in used
    }
    tensors = {name: value.detach().float().cpu().numpy().copy() for name, value in state.items()}
    return {**tensors, "grid": np.array(tap.grid, np.int64)}


def build_rest(encoder: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> TowerEnd:
    """Return the rest of an image tower as a module, in float32 on the CPU.

    Args:
        encoder: the identity of the encoder (``Cache.encoder``).
        tensors: of :func:`save_rest` (``Cache.rest``).

    Raises:
        EncoderError: the tensors are not those of such a tower's rest.
    """
    architecture = encoder["architecture"]
    config = architecture["config"]
    quick = architecture["activation"] == ACTIVATIONS[True]
    with skip_random_start(), torch.random.fork_rng(devices=[]):
        visual = _build_vision_tower(config["embed_dim"], dict(config["vision"]), quick)
    state = {n: torch.from_numpy(np.array(a)) for n, a in tensors.items() if n != "grid"}
    try:
        height, width = (int(edge) for edge in tensors["grid"])
        found = visual.load_state_dict(state, strict=False)
        if found.unexpected_keys or not state:
            raise RuntimeError(f"unexpected {', '.join(found.unexpected_keys[:3])}")
    except (RuntimeError, KeyError, ValueError) as error:
        raise EncoderError(f"the saved rest does not fit {architecture['name']}: {error}") from None
    return TowerEnd(visual.eval().requires_grad_(False), (height, width))


def _used_modules(tap: TokenHook) -> set[str]:
    """Return the names of the modules and parameters that the rest needs, by running it."""
    visual = tap.visual
    if isinstance(visual, VisionTransformer):
        last = f"transformer.resblocks.{len(visual.transformer.resblocks) - 1}"
        parts = (last, "ln_post", "attn_pool", "attn_pool_contrastive")
        named = (n for n, _ in visual.named_modules())
        return {
            "proj",
            *(n for n in named if n in parts or n.startswith(tuple(f"{p}." for p in parts))),
        }
    ran: set[str] = set()
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: ran.add(name))
        for name, module in visual.named_modules()
    ]
    try:
        assert tap.shape is not None
        parameter = next(visual.parameters())
        with torch.inference_mode():
            TowerEnd(visual, tap.grid)(parameter.new_zeros(1, *tap.shape))
    finally:
        for hook in hooks:
            hook.remove()
    # a module that runs may use its children's weights without calling them
    inner = {
        n for name in ran if name for n, _ in visual.named_modules() if n.startswith(f"{name}.")
    }
    return ran | inner
