"""What an encoder is, as a value: equal for equal functions, however the weights were named.

Nothing of it depends on a tag, a path or the class that open_clip builds; weights enter by the
SHA-256 of each tower's tensors, the tokenizer by that of its vocabulary.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from open_clip import CLIPTextCfg, CLIPVisionCfg

from ltcache.process import usable_processors
from ltcache.records import JsonObject, digest

ACTIVATIONS = ("gelu", "quick_gelu")
"""Indexed by ``quick_gelu`` of an open_clip configuration."""

_APART = ("logit_scale", "logit_bias")
# What changes no feature: dropout of training, where start values come from, what the tokenizer's
# part of the identity says better, how a tower returns its tokens.
_VISION_IGNORED = {
    "patch_dropout", "timm_model_pretrained", "timm_drop", "timm_drop_path", "output_tokens",
}  # fmt: skip
_TEXT_IGNORED = {
    "hf_model_pretrained", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs",
    "output_tokens",
}  # fmt: skip


def canonical_config(config: Mapping[str, Any]) -> JsonObject:
    """Return the values of a ``model_cfg`` that features depend on, without defaults.

    Leaving defaults out keeps the identity when a later open_clip adds an option, and makes a
    configuration that spells a default out equal to one that does not.
    """
    return {
        "embed_dim": config["embed_dim"],
        "vision": _departures(config["vision_cfg"], CLIPVisionCfg, _VISION_IGNORED),
        "text": _departures(config["text_cfg"], CLIPTextCfg, _TEXT_IGNORED),
    }


def architecture(
    config: Mapping[str, Any], activation: str, adapters: Sequence[Mapping[str, Any]] = ()
) -> JsonObject:
    """Return the ``architecture`` part: a readable name, the configuration, the activation.

    Args:
        adapters: in the image tower, ``{name, options}`` each, in the order of their insertion.
    """
    return {
        "name": _structure(config),
        "config": canonical_config(config),
        "activation": activation,
        "adapters": [dict(adapter) for adapter in adapters] or None,
    }


def tower_digests(state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return the SHA-256 of each tower of a loaded model: ``image``, and ``text`` where it is.

    The logit scale and bias belong to neither; a decoder of captions is left out. A text tower
    has the same names, and so the same digest, whether open_clip nests it (``text.``) or not.

    Args:
        state: see :func:`float_state`.
    """
    image = {n.removeprefix("visual."): t for n, t in state.items() if n.startswith("visual.")}
    text = {
        name.removeprefix("text."): tensor
        for name, tensor in state.items()
        if not name.startswith(("visual.", "text_decoder.")) and name not in _APART
    }
    return {"image": tensors_digest(image), **({"text": tensors_digest(text)} if text else {})}


def float_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a model's tensors as a file of weights gives them: on the CPU, floats in float32."""
    return {
        name: tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else None)
        for name, tensor in model.state_dict().items()
    }


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return one SHA-256 over the sorted (name, shape, dtype, SHA-256 of the bytes) of tensors."""
    items = sorted(tensors.items())
    with ThreadPoolExecutor(usable_processors()) as pool:  # hashlib lets other threads run
        hashes = list(pool.map(_tensor_digest, [tensor for _, tensor in items]))
    return digest(
        [
            [name, list(tensor.shape), str(tensor.dtype).removeprefix("torch."), sha]
            for (name, tensor), sha in zip(items, hashes, strict=True)
        ]
    )


def tokenizer_identity(tokenizer: Any) -> JsonObject:
    """Return class, context length, cleaning and digests of the vocabulary of a tokenizer."""
    value: JsonObject = {
        "class": type(tokenizer).__name__,
        "context_length": tokenizer.context_length,
        "clean": getattr(getattr(tokenizer, "clean_fn", None), "__name__", None),
        "vocabulary": None,
        "merges": None,
    }
    if hasattr(tokenizer, "encoder"):
        vocabulary = tokenizer.encoder
        value["merges"] = _lines_digest(" ".join(p) for p in _by_number(tokenizer.bpe_ranks))
    else:
        inner = tokenizer.tokenizer
        vocabulary = inner.get_vocab()
        backend = getattr(inner, "backend_tokenizer", None)
        if backend is not None:
            value["merges"] = hashlib.sha256(backend.to_str().encode()).hexdigest()
    value["vocabulary"] = _lines_digest(_by_number(vocabulary))
    for option in ("tokenizer_mode", "strip_sep_token"):
        if getattr(tokenizer, option, None):
            value[option] = getattr(tokenizer, option)
    reduction = getattr(tokenizer, "reduction_fn", None)
    if reduction is not None:
        value["reduction"] = getattr(reduction, "__name__", repr(reduction))
    return value


def _departures(given: Mapping[str, Any], cls: type, ignored: set[str]) -> JsonObject:
    defaults = {item.name: item.default for item in dataclasses.fields(cls)}
    return {
        key: _plain(value)
        for key, value in sorted(given.items())
        if key not in ignored and _plain(value) != _plain(defaults.get(key)) and value != {}
    }


def _plain(value: Any) -> Any:
    """Return lists for tuples, and one number for a square size."""
    if isinstance(value, (list, tuple)):
        items = [_plain(item) for item in value]
        return items[0] if len(items) == 2 and items[0] == items[1] else items
    return value


def _structure(config: Mapping[str, Any]) -> str:
    vision = {**dataclasses.asdict(CLIPVisionCfg()), **config["vision_cfg"]}
    text = {**dataclasses.asdict(CLIPTextCfg()), **config["text_cfg"]}
    size = _plain(vision["image_size"])
    edge = "x".join(map(str, size)) if isinstance(size, list) else str(size)
    if vision["timm_model_name"]:
        image = f"timm {vision['timm_model_name']}"
    elif isinstance(vision["layers"], (list, tuple)):
        image = f"ResNet {'-'.join(map(str, vision['layers']))} width {vision['width']}"
    else:
        image = f"ViT {vision['layers']}x{vision['width']} patch {vision['patch_size']}"
    words = text["hf_model_name"] or f"{text['layers']}x{text['width']}"
    return f"{image} at {edge} px, text {words}"


def _tensor_digest(tensor: torch.Tensor) -> str:
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()


def _by_number(numbered: Mapping[Any, int]) -> list[Any]:
    return sorted(numbered, key=lambda key: numbered[key])


def _lines_digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()
