"""What is recorded about weights, against what would be built from them.

The record (a tag's entry in open_clip, or an ``open_clip_config.json`` beside the weights) says
which activation and preprocessing the weights were trained with. Where it contradicts what would
be built, the encoder is refused: a QuickGELU mismatch loads without an error and costs CLIP about
four points of zero-shot accuracy.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from open_clip import get_pretrained_cfg, list_models, list_pretrained_tags_by_model
from open_clip.transform import PreprocessCfg

from ltcache.encoder.identity import ACTIVATIONS, canonical_config
from ltcache.errors import EncoderError
from ltcache.images import Preprocessing
from ltcache.records import canonical_json, differences

log = logging.getLogger(__name__)

LOCAL = "local-dir:"
CONFIG_FILE = "open_clip_config.json"
_PREPROCESS = ("mean", "std", "interpolation", "resize_mode", "fill_color")


def agreed_activation(
    wanted: str | None, built: bool, trained: bool, record: str, architecture: str | None = None
) -> str:
    """Return the activation to build, which is the one that the record names.

    Args:
        wanted: what the user asked for, or None.
        built: whether the named architecture has QuickGELU.
        trained: whether the record says that the weights were trained with QuickGELU.
        record: where that stands, for the message.

    Raises:
        EncoderError: they differ; the message names both remedies.
    """
    chosen = wanted or ACTIVATIONS[built]
    if chosen == ACTIVATIONS[trained]:
        return chosen
    subject = f"activation {wanted!r}" if wanted else f"{architecture} (activation {chosen!r})"
    remedy = f"give --activation {ACTIVATIONS[trained]}"
    if wanted and built == trained:
        remedy = "leave the option out"
    elif architecture is not None and not wanted:
        other = f"{architecture}-quickgelu" if trained else architecture.removesuffix("-quickgelu")
        if other in list_models():
            remedy = f"name the architecture {other}, or {remedy}"
    raise EncoderError(
        f"{subject} contradicts {record}, whose weights were trained with "
        f"{ACTIVATIONS[trained]!r}; features would silently be wrong: {remedy}"
    )


@dataclass(frozen=True)
class OpenClipConfig:
    """What an ``open_clip_config.json`` says.

    Attributes:
        model: its ``model_cfg``.
        preprocess: what it says about preprocessing, without the size (the tower knows it).
    """

    model: Mapping[str, Any]
    preprocess: Mapping[str, Any]

    @property
    def quick_gelu(self) -> bool:
        """Whether the weights were trained with QuickGELU."""
        return bool(self.model.get("quick_gelu", False))


def read_open_clip_config(path: Path) -> OpenClipConfig:
    """Read an ``open_clip_config.json``.

    Raises:
        EncoderError: missing, not JSON, or without ``model_cfg``.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise EncoderError(
            f"{path}: {error.strerror or error}; a model's folder holds {CONFIG_FILE} "
            "(with model_cfg and preprocess_cfg) and its weights"
        ) from None
    except ValueError as error:
        raise EncoderError(f"{path}: not JSON ({error})") from None
    config = record.get("model_cfg") if isinstance(record, dict) else None
    if not isinstance(config, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= set(config):
        raise EncoderError(f"{path}: no model_cfg with embed_dim, vision_cfg and text_cfg")
    return OpenClipConfig(config, known_values(record.get("preprocess_cfg") or {}))


def known_values(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the values that are preprocessing and are given."""
    return {key: values[key] for key in _PREPROCESS if values.get(key) is not None}


def require_same_architecture(
    name: str, config: Mapping[str, Any], path: Path, recorded: Mapping[str, Any]
) -> None:
    """Shapes alone do not tell head widths or pooling apart, the record does."""
    found = differences(canonical_config(recorded), canonical_config(config))
    if found:
        lines = [f"  {key}: {a!r} there, {b!r} in {name}" for key, (a, b) in found.items()]
        raise EncoderError(
            "\n".join([f"{path} describes another architecture than {name}:", *lines])
            + f"\nname the folder itself: {LOCAL}{path.parent}"
        )


def default_preprocess(name: str, path: Path) -> Mapping[str, Any]:
    """Return open_clip's default for a bare file, unless the architecture is known to differ."""
    default = canonical_json(known_values(vars(PreprocessCfg())))
    known = {
        canonical_json(
            {**known_values(vars(PreprocessCfg())), **known_values(get_pretrained_cfg(name, tag))}
        )
        for tag in list_pretrained_tags_by_model(name)
    }
    if known and default not in known:
        raise EncoderError(
            f"{path} does not say how images are preprocessed, and no published weights of {name} "
            f"use the default: put it into a folder with {CONFIG_FILE} (preprocess_cfg: mean, "
            f"std, interpolation, resize_mode) and name {LOCAL}/that/folder"
        )
    if len(known) > 1:
        log.warning(
            "%s does not say how images are preprocessed, and weights of %s differ in it; "
            "open_clip's default is taken (put it into a folder with %s to say otherwise)",
            path, name, CONFIG_FILE,
        )  # fmt: skip
    return {}


def preprocessing_of(model: Any) -> Preprocessing:
    """Return the inference preprocessing of a model that open_clip built, as a value."""
    values = {**asdict(PreprocessCfg()), **model.visual.preprocess_cfg}
    for key in ("mean", "std"):
        if not isinstance(values[key], (list, tuple)):
            values[key] = (values[key],) * 3
    if values["interpolation"] == "random":  # open_clip: random in training, bicubic otherwise
        values["interpolation"] = "bicubic"
    return Preprocessing.from_dict(values)
