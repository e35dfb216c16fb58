"""The fields of an image that one forward gives: ``embedding`` and ``pooled``, where they exist.

``embedding`` (N, D) is exactly what ``model.encode_image`` returns, in the joint space and not
normalised. ``pooled`` (N, P) is what the last layer of the tower projects from. Where that layer
is linear, ``embedding = pooled @ projection + projection_bias``. An image tower without texts has
``pooled`` alone.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from open_clip import CLIP
from open_clip.model import CustomTextCLIP
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer

from ltcache.errors import UsageError, first_line
from ltcache.records import one_line

EMBEDDING, POOLED = "embedding", "pooled"


@one_line
@dataclass(frozen=True)
class Projection:
    """The last linear layer of a tower: weight float32 (P, D), bias float32 (D,) or None."""

    weight: np.ndarray
    bias: np.ndarray | None = None


class FieldForward(Protocol):
    """Normalised images (N, 3, H, W) -> field -> (N, dim), in one forward.

    Attributes:
        projection: from ``pooled`` to ``embedding``, or None.
        dims: field -> dimension, or None where only a forward can tell.
    """

    projection: Projection | None
    dims: dict[str, int] | None

    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the fields of a batch on its device, in the precision of the model."""
        ...


class ImageOnly(torch.nn.Module):
    """A tower where a dual encoder has its image tower, and nothing else."""

    def __init__(self, visual: torch.nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Let the tower compute its blocks' activations again, as open_clip's models do.

        Raises:
            UsageError: it cannot.
        """
        visual: Any = self.visual
        try:
            visual.set_grad_checkpointing(enable)
        except AssertionError as error:  # timm's own, of architectures that it is not written for
            name = type(visual).__name__
            raise UsageError(f"{name}: {first_line(error)}; leave --checkpointing out") from None


def fields_of(model: Any) -> FieldForward:
    """Return how the fields of a model's image tower are computed."""
    visual = model.visual
    if isinstance(model, ImageOnly):
        return PooledOnly(visual)
    if isinstance(model, (CLIP, CustomTextCLIP)):
        if type(visual) is VisionTransformer and _gives_one_vector(visual):
            return VitFields(visual)
        if type(visual) is TimmModel and (last := _last_layer(visual)) is not None:
            return TimmFields(visual, last)
    return EmbeddingOnly(model)


class HookNotes(threading.local):
    """What a hook notes, apart for each thread; of a copied model it starts empty."""

    found: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> HookNotes:
        return HookNotes()


class PooledOnly:
    """The field of a tower whose end is its pooling."""

    projection: Projection | None = None
    dims: dict[str, int] | None = None

    def __init__(self, tower: torch.nn.Module) -> None:
        self._tower = tower

    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {POOLED: self._tower(images)}


class EmbeddingOnly:
    """Towers whose projection cannot be told apart: CLIP's ResNets (it is inside the attention
    pool), CoCa, and trunks whose pooling is the end."""

    projection: Projection | None = None
    dims: dict[str, int] | None = None

    def __init__(self, model: Any) -> None:
        self._encode = model.encode_image

    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {EMBEDDING: self._encode(images, normalize=False)}


class VitFields:
    """open_clip's own ViT: the steps of its ``forward``, stopping before ``proj``."""

    def __init__(self, visual: VisionTransformer) -> None:
        self._visual = visual
        self.projection: Projection | None = Projection(_array(visual.proj))
        pooled, embedding = visual.proj.shape
        self.dims: dict[str, int] | None = {EMBEDDING: embedding, POOLED: pooled}

    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        visual = self._visual
        tokens = visual.transformer(visual._embeds(images))  # (N, 1 + patches, P)
        pooled, _ = visual._pool(tokens)  # (N, P)
        return {EMBEDDING: pooled @ visual.proj, POOLED: pooled}


class TimmFields:
    """A timm trunk: what its last layer receives is noted while the whole tower runs.

    The last layer is the ``proj`` or ``mlp`` of open_clip's adapter, or the trunk's own
    classifier; only a linear one has a projection.
    """

    dims: dict[str, int] | None = None

    def __init__(self, visual: TimmModel, last: torch.nn.Module) -> None:
        self._visual = visual
        self._noted = HookNotes()
        self.projection = _linear_projection(last)
        last.register_forward_pre_hook(self._note)

    def _note(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if self._noted.found is not None:
            self._noted.found[POOLED] = inputs[0]

    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        noted: dict[str, torch.Tensor] = {}
        self._noted.found = noted
        try:
            return {EMBEDDING: self._visual(images), **noted}
        finally:
            self._noted.found = None


def _gives_one_vector(visual: VisionTransformer) -> bool:
    return visual.pool_type != "none" and not visual.output_tokens and visual.proj is not None


def _last_layer(visual: TimmModel) -> torch.nn.Module | None:
    head = visual.head
    if "proj" in head._modules or "mlp" in head._modules:
        return head[-1]
    if len(head) == 0 and hasattr(visual.trunk, "get_classifier"):
        classifier = visual.trunk.get_classifier()
        return classifier if isinstance(classifier, torch.nn.Linear) else None
    return None


def _linear_projection(layer: torch.nn.Module) -> Projection | None:
    if not isinstance(layer, torch.nn.Linear):
        return None
    bias = None if layer.bias is None else _array(layer.bias)
    return Projection(_array(layer.weight.T), bias)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().contiguous().numpy().copy()
