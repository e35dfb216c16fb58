"""A whole model in a folder, as the library that it is of reads it: open_clip or timm."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import open_clip
import torch
from safetensors.torch import save_file

from ltcache.encoder.identity import ACTIVATIONS, tokenizer_identity
from ltcache.encoder.record import CONFIG_FILE, LOCAL, known_values
from ltcache.encoder.tokens import load_tokenizer

if TYPE_CHECKING:
    from ltcache.encoder.encoder import Encoder

WEIGHTS_FILE = "open_clip_model.safetensors"
TIMM_WEIGHTS, TIMM_CONFIG = "model.safetensors", "config.json"
_NOT_THIS_FILE = ("url", "file", "hf_hub_id", "hf_hub_filename", "source", "state_dict")


def write_open_clip(
    folder: Path, encoder: Encoder, state: Mapping[str, torch.Tensor]
) -> Mapping[str, Any]:
    """Write what plain open_clip reads: configuration, weights, and the tokenizer's own files.

    Returns:
        The identity of the tokenizer that open_clip loads from the folder.
    """
    config = copy.deepcopy(dict(encoder.source.config))
    config["quick_gelu"] = encoder.source.activation == ACTIVATIONS[True]
    _copy_vocabulary(folder, encoder.source.folder, config["text_cfg"])
    preprocess = known_values(encoder.preprocessing.to_dict())
    record = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / CONFIG_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    save_file(apart(state), folder / WEIGHTS_FILE)
    if not hasattr(encoder.tokenizer, "save_pretrained"):
        found: Mapping[str, Any] = encoder.identity["tokenizer"]
        return found
    # open_clip looks for a tokenizer's files in the folder; they are those of a fresh one, since a
    # tokenizer that has been used would be saved with its padding
    load_tokenizer(encoder.source).save_pretrained(folder)
    return tokenizer_identity(open_clip.get_tokenizer(f"{LOCAL}{folder}"))


def write_timm(folder: Path, encoder: Encoder, state: Mapping[str, torch.Tensor]) -> None:
    """Write what plain timm reads: a configuration as its models on the hub have it, and weights
    without a classifier."""
    trunk, source = encoder.model.visual, encoder.source.config
    known = {name: value for name, value in trunk.pretrained_cfg.items() if value is not None}
    record = {name: value for name, value in known.items() if name not in _NOT_THIS_FILE}
    config = {
        "architecture": source["timm"],
        "num_classes": 0,
        "num_features": trunk.num_features,
        "model_args": source["arguments"],
        # weights in timm's own form, whatever those before were in
        "pretrained_cfg": {**record, "num_classes": 0, "label_offset": 0, "custom_load": False},
    }
    (folder / TIMM_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    named = {name.removeprefix("visual."): tensor for name, tensor in state.items()}
    save_file(apart(named), folder / TIMM_WEIGHTS)


def apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors as safetensors wants them: contiguous, none sharing another's memory."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        shared = tensor.untyped_storage().data_ptr() in seen
        seen.add(tensor.untyped_storage().data_ptr())
        found[name] = tensor.clone() if shared else tensor
    return {name: tensor.contiguous() for name, tensor in found.items()}


def _copy_vocabulary(folder: Path, source: Path | None, text: dict[str, Any]) -> None:
    """Take a vocabulary along that lies in the parent's folder."""
    options = text.get("tokenizer_kwargs") or {}
    path = options.get("bpe_path")
    if path and source is not None and not Path(path).is_absolute():
        shutil.copyfile(source / path, folder / Path(path).name)
        options["bpe_path"] = Path(path).name
