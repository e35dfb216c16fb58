"""Which tensors of an encoder train, in which mode its modules run while they do, and towers
that start from random weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import timm
import torch
from open_clip.model import _build_text_tower, _build_vision_tower
from open_clip.transformer import PatchDropout
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ltcache.encoder.adapters.base import TowerAdapter
from ltcache.encoder.adapters.lora import LowRank
from ltcache.encoder.identity import ACTIVATIONS
from ltcache.errors import EncoderError, UsageError

TRAINABLE = ("full", "bias", "layer_norm", "none")
TOWERS = ("image", "text")
_SCALES = ("logit_scale", "logit_bias")


def set_trainable(
    model: Any, *, image: str = "none", text: str = "none", logit_scale: bool = False
) -> None:
    """Set ``requires_grad`` of every parameter of an encoder's model.

    Adapters of the image tower always train; a decoder of captions never does. Buffers, such as
    the statistics of batch norms and an adapter's descriptions, stay as they are.

    Args:
        image, text: what of each tower trains: ``full``; ``bias``, every bias (BitFit: Ben Zaken
            et al., ACL 2022); ``layer_norm``, weights and biases of every normalisation layer;
            ``none``.
        logit_scale: whether the scale, and the bias where there is one, train.

    Raises:
        UsageError: another word.
    """
    model.requires_grad_(False)
    for tower, how in (("image", image), ("text", text)):
        if how not in TRAINABLE:
            raise UsageError(f"{tower}={how!r} is none of {', '.join(TRAINABLE)}")
        for parameter in _chosen(model, tower, how):
            parameter.requires_grad_(True)
    for module in model.visual.modules():
        if isinstance(module, (TowerAdapter, LowRank)):
            module.requires_grad_(True)
    for name in _SCALES:
        if isinstance(scale := getattr(model, name, None), nn.Parameter):
            scale.requires_grad_(logit_scale)


def train_mode(model: Any) -> None:
    """Put what trains into training mode.

    A tower without trainable parameters stays in evaluation mode, so that its features are those
    of inference. So do all batch norms: small, class-balanced batches would replace statistics
    that the frozen weights were fitted to, and the result would depend on the batch size and on
    how it is shared among ranks. Patches are never dropped: the gate needs the whole map.
    """
    model.train()
    for tower in TOWERS:
        if not any(parameter.requires_grad for _, parameter in _parameters(model, tower)):
            for module in _modules(model, tower):
                module.eval()
    for module in model.modules():
        if isinstance(module, (_BatchNorm, PatchDropout)):
            module.eval()


def reset_tower(model: Any, tower: str, seed: int, *, architecture: Mapping[str, Any]) -> None:
    """Give a tower the random start weights of its architecture, in place (TIN, table 6).

    Args:
        model: an encoder's, without adapters. tower: ``image`` or ``text``.
        seed: equal seeds give equal weights.
        architecture: of the encoder's identity (``encoder.identity["architecture"]``).

    Raises:
        UsageError: no such tower.
        EncoderError: the model is not of that architecture, or has adapters already.
    """
    if tower not in TOWERS:
        raise UsageError(f"tower {tower!r} is none of {', '.join(TOWERS)}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        fresh = _fresh(tower, architecture).state_dict()
    state = model.state_dict()
    prefix = "visual." if tower == "image" else "text." if hasattr(model, "text") else ""
    named = {f"{prefix}{name}": tensor for name, tensor in fresh.items()}
    wrong = [n for n, t in named.items() if n not in state or state[n].shape != t.shape]
    if wrong or getattr(model.visual, "adapters", None):
        why = f"; {wrong[0]} does not fit" if wrong else ": it has adapters; insert them afterwards"
        raise EncoderError(f"the {tower} tower cannot start from random weights{why}")
    with torch.no_grad():
        for name, tensor in named.items():
            state[name].copy_(tensor)


def _fresh(tower: str, architecture: Mapping[str, Any]) -> nn.Module:
    config, quick = architecture["config"], architecture["activation"] == ACTIVATIONS[True]
    if tower == "image" and "timm" in config:
        return timm.create_model(config["timm"], num_classes=0, **config["arguments"])
    if tower == "image":
        return _build_vision_tower(config["embed_dim"], dict(config["vision"]), quick)
    text = {**config["text"], "hf_model_pretrained": False}
    return _build_text_tower(config["embed_dim"], text, quick)


def _chosen(model: Any, tower: str, how: str) -> Iterator[nn.Parameter]:
    if how == "layer_norm":
        for module in _modules(model, tower):
            if "norm" in type(module).__name__.lower():  # timm has many classes of them
                yield from module.parameters(recurse=False)
        return
    for name, parameter in _parameters(model, tower):
        if how == "full" or (how == "bias" and name.endswith("bias")):
            yield parameter


def _parameters(model: Any, tower: str) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in model.named_parameters():
        if name not in _SCALES and _belongs(name, tower):
            yield name, parameter


def _modules(model: Any, tower: str) -> Iterator[nn.Module]:
    for name, module in model.named_modules():
        if name and _belongs(name, tower):
            yield module


def _belongs(name: str, tower: str) -> bool:
    part = name.split(".")[0]
    return part == "visual" if tower == "image" else part not in ("visual", "text_decoder")
