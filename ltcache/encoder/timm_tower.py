"""Image-only encoders: timm's models without their classifiers, and without any text.

``pooled`` (N, P) is what timm's own ``model(x)`` gives with ``num_classes=0``. There is no joint
space with texts, so there is no ``embedding``, no logit scale and no tokenizer; TACKLE's poster
mixes such a backbone's classifier with CLIP, which ``ltcache ensemble`` does row by row.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from timm.models import (
    get_pretrained_cfg,
    is_model,
    load_model_config_from_hf,
    load_state_dict,
    split_model_name_tag,
)

from ltcache.encoder.child import (
    ADAPTED,
    TunedCheckpoint,
    read_checkpoint,
    require_recorded,
    restore,
)
from ltcache.encoder.choice import EncoderChoice
from ltcache.encoder.fields import ImageOnly, fields_of
from ltcache.encoder.identity import float_state, tower_digests
from ltcache.encoder.image_only import ImageEncoder
from ltcache.encoder.nested import describe_content, how_to_save
from ltcache.encoder.plain_model import TIMM_CONFIG, TIMM_WEIGHTS
from ltcache.encoder.random_start import skip_random_start
from ltcache.encoder.record import LOCAL
from ltcache.encoder.source import (
    HUB,
    WEIGHT_SUFFIXES,
    EncoderSource,
    checkpoint_named,
    child_provenance,
    parent_source,
    parse_seed,
    refuse_pretrained,
)
from ltcache.encoder.weights import MORE_THAN_TENSORS
from ltcache.errors import EncoderError, ImageError, UsageError, first_line
from ltcache.images import Preprocessing
from ltcache.manifest import some
from ltcache.records import JsonObject, canonical_json

log = logging.getLogger(__name__)

TIMM = "timm:"
_RESIZE = {"center": "shortest", "squash": "squash"}
_CLASSIFIERS = ("head", "fc", "classifier")  # of files in a form of their own, which timm renames


@dataclass(frozen=True)
class TimmSource:
    """What timm is to build, and where its weights come from.

    Args:
        architecture: timm's name of it, without a tag.
        record: timm's ``pretrained_cfg``: preprocessing, classifier, and where weights lie.
        arguments: of the architecture, where a model on the hub departs from it.
        weights: a file in place of those that the record names.
        seed: of random weights, in place of both.
        layers, child, folder: see :class:`ltcache.encoder.source.EncoderSource`.
    """

    architecture: str
    record: Mapping[str, Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    seed: int | None = None
    layers: tuple[TunedCheckpoint, ...] = ()
    child: TunedCheckpoint | None = None
    folder: Path | None = None


class TimmEncoder(ImageEncoder):
    """An image-only encoder of timm."""

    family = TIMM

    def numerics(self) -> Mapping[str, Any]:
        """Return what the last bits of the features depend on besides the identity."""
        found = super().numerics()
        return {**found, "versions": {**found["versions"], "timm": timm.__version__}}


def load_timm(choice: EncoderChoice, *, device: torch.device, precision: str) -> ImageEncoder:
    """Load an image-only encoder from timm and identify it by its weights.

    Args:
        choice: its model is ``timm:NAME``, ``timm:NAME.TAG`` as timm names published weights,
            ``timm:hf-hub:ORG/NAME``, or a checkpoint of ``finetune``; pretrained a tag, the path of
            a weights file, or ``random:SEED``. The preprocessing of a file is that of a
            ``config.json`` beside it (as on the hub), or else that of the tag.
        device, precision: chosen already.

    Raises:
        UsageError: options that cannot go together.
        EncoderError: unknown, missing, damaged, unreachable, or not an encoder of RGB images.
    """
    model, cache_dir = choice.name, choice.cache_dir
    if choice.activation is not None:
        raise UsageError(f"{model!r} has the activation that timm gives it: leave it out")
    tower = resolve_tower(choice)
    trunk = build_tower(tower, model, cache_dir)
    preprocessing = preprocessing_of_tower(trunk, model)
    whole = ImageOnly(trunk)
    for layer in tower.layers:
        restore(whole, layer)
    whole.eval().requires_grad_(False)
    source = _source(tower, choice)
    edge = "x".join(map(str, dict.fromkeys(preprocessing.size)))
    encoder = TimmEncoder(
        whole,
        None,
        source,
        fields_of(whole),
        preprocessing,
        identity={
            "architecture": {
                "name": f"timm {tower.architecture} at {edge} px",
                "config": source.config,
                "activation": None,
                "adapters": (tower.child.adapters if tower.child else None) or None,
            },
            "towers": tower_digests(float_state(whole)),
            "tokenizer": None,
        },
        device=device,
        precision=precision,
    )
    if tower.child is not None:
        require_recorded(encoder.identity, tower.child)
    return encoder


def _source(tower: TimmSource, choice: EncoderChoice) -> EncoderSource:
    seeded = None if tower.seed is None else f"random:{tower.seed}"
    named = {**choice.provenance, "pretrained": seeded or choice.pretrained}
    return EncoderSource(
        choice.name,
        {"timm": tower.architecture, "arguments": dict(tower.arguments)},
        tower.weights,
        "",
        seed=tower.seed,
        folder=tower.folder,
        provenance=child_provenance(tower.child, choice) if tower.child else named,
        layers=tower.layers,
        child=tower.child,
    )


def resolve_tower(choice: EncoderChoice) -> TimmSource:
    """Resolve a model's name; see :func:`load_timm` for the forms.

    Raises:
        UsageError: options that cannot go together.
        EncoderError: unknown, missing or unreachable.
    """
    model, pretrained = choice.name, choice.pretrained
    if (checkpoint := checkpoint_named(model)) is not None:
        return _from_checkpoint(checkpoint, choice)
    name = model.removeprefix(TIMM)
    if name.startswith(HUB):
        return _from_hub(model, pretrained, choice.cache_dir)
    architecture, tag = split_model_name_tag(name)
    if not is_model(architecture):
        near = get_close_matches(architecture.lower(), timm.list_models(), n=3, cutoff=0.5)
        hint = f"; nearest: {', '.join(TIMM + item for item in near)}" if near else ""
        raise EncoderError(f"timm {timm.__version__} has no model {architecture!r}{hint}")
    if pretrained is None and not tag:
        raise UsageError(
            f"{model!r} names an architecture without weights: give --pretrained (one of "
            f"{', '.join(_tags(architecture)) or 'no published tag'}, or the path of a weights "
            "file); 'random:0' builds it with random weights, for tests and timing only"
        )
    if tag and tag not in _tags(architecture):
        raise _unknown_tag(architecture, tag)
    start = TimmSource(architecture, _registered(architecture, tag))
    if pretrained is None or pretrained == tag:
        return start
    if pretrained.split(":")[0] == "random":
        return replace(start, seed=parse_seed(pretrained))
    if pretrained in _tags(architecture):
        if tag:
            raise UsageError(f"{model!r} names its weights: leave out --pretrained {pretrained}")
        return replace(start, record=_registered(architecture, pretrained))
    return _from_file(start, pretrained, tag)


def build_tower(tower: TimmSource, name: str, cache_dir: str | None = None) -> Any:
    """Return timm's model without its classifier, in float32 on the CPU, for inference.

    Weights are loaded strictly, with their classifier, which is dropped afterwards.

    Raises:
        EncoderError: weights that are damaged, do not fit or cannot be fetched, or a configuration
            that timm cannot build.
    """
    overlay: dict[str, Any] = {}
    shapes: dict[str, torch.Size] = {}
    if tower.weights is not None:
        state = _state(tower.weights)
        shapes = {key: tensor.shape for key, tensor in state.items()}  # timm may change them
        classes = _classes(tower.record, state)
        overlay = {"state_dict": state, "num_classes": classes, "label_offset": 0}
        overlay["custom_load"] = False
    loads = tower.seed is None
    # weights in a form of their own are copied by the model itself, which nothing can call strict
    quick = loads and not {**tower.record, **overlay}.get("custom_load")
    with torch.random.fork_rng(devices=[]), skip_random_start() if quick else nullcontext():
        torch.default_generator.manual_seed(tower.seed or 0)
        try:
            model = timm.create_model(
                tower.architecture,
                pretrained=loads,
                pretrained_cfg=dict(tower.record),
                pretrained_cfg_overlay=overlay,
                cache_dir=cache_dir,
                **tower.arguments,
                **({} if loads else {"num_classes": 0}),
            )
        except Exception as error:  # timm, the hub's client and torch raise many kinds
            raise _unusable(tower, name, error) from None
        if loads and model.num_classes:
            model.reset_classifier(0)
    _warn_of_resizing(model, shapes, tower)
    return model.eval().requires_grad_(False)


def preprocessing_of_tower(model: Any, name: str) -> Preprocessing:
    """Return timm's own preprocessing for evaluation (``resolve_data_config``) as a value.

    Raises:
        EncoderError: not of RGB images, or of a geometry that is not known here.
    """
    found = resolve_data_config({}, model=model)
    channels, height, width = found["input_size"]
    if channels != 3:
        raise EncoderError(f"{name} takes images of {channels} channels, not RGB")
    if found["crop_mode"] not in _RESIZE:
        raise EncoderError(f"{name}: crop mode {found['crop_mode']!r} of timm is not known here")
    try:
        return Preprocessing.from_dict(
            {
                "size": (height, width),
                **{part: found[part] for part in ("mean", "std", "interpolation")},
                "resize_mode": _RESIZE[found["crop_mode"]],
                "crop_pct": float(found["crop_pct"]),
            }
        )
    except ImageError as error:
        raise EncoderError(f"{name}: {error}") from None


def _from_checkpoint(folder: Path, choice: EncoderChoice) -> TimmSource:
    child = read_checkpoint(folder)
    if child.kind == ADAPTED:
        parent = parent_source(child, choice, resolve_tower)
        return replace(parent, layers=(*parent.layers, child), child=child)
    refuse_pretrained(f"{LOCAL}{folder}", choice.pretrained)
    architecture = child.identity["architecture"]["config"]["timm"]
    start = TimmSource(architecture, _registered(architecture), child=child, folder=folder)
    return _from_file(start, str(folder / TIMM_WEIGHTS), "")


def _from_hub(model: str, pretrained: str | None, cache_dir: str | None) -> TimmSource:
    if pretrained is not None:
        raise UsageError(f"{model!r} brings its own weights: leave out --pretrained {pretrained}")
    try:
        record, architecture, arguments = load_model_config_from_hf(
            model.removeprefix(TIMM + HUB), cache_dir=cache_dir
        )
    except Exception as error:  # the hub's client raises many kinds
        raise EncoderError(f"{model}: cannot be fetched ({first_line(error)})") from None
    if not is_model(architecture):
        raise EncoderError(f"{model}: timm {timm.__version__} has no model {architecture!r}")
    return TimmSource(architecture, record, arguments or {})


def _from_file(start: TimmSource, pretrained: str, tag: str) -> TimmSource:
    path = Path(pretrained).expanduser()
    if not path.is_file():
        if path.suffix in WEIGHT_SUFFIXES or "/" in pretrained:
            raise EncoderError(f"{path}: no such weights file")
        raise _unknown_tag(start.architecture, pretrained)
    beside = path.parent / TIMM_CONFIG
    if beside.is_file():
        record, arguments = _read_record(beside, start)
        return replace(start, record=record, arguments=arguments, weights=path)
    if not tag:
        _warn_of_preprocessing(start.architecture, path)
    return replace(start, weights=path)


def _read_record(path: Path, start: TimmSource) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return ``pretrained_cfg`` and arguments of a ``config.json`` as timm's models on the hub
    have it.

    Raises:
        EncoderError: not JSON, or of another architecture.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        record, named = dict(content["pretrained_cfg"]), content["architecture"]
        arguments = dict(content.get("model_args") or {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncoderError(
            f"{path}: no record of timm's, which has architecture and pretrained_cfg "
            f"({type(error).__name__}: {first_line(error)}); put the weights into another folder "
            "to go without it"
        ) from None
    if named != start.architecture:
        raise EncoderError(
            f"{path} describes {named!r}, not {start.architecture!r}: name it {TIMM}{named}"
        )
    return {**start.record, **record}, arguments


def _registered(architecture: str, tag: str = "") -> JsonObject:
    found = get_pretrained_cfg(f"{architecture}.{tag}" if tag else architecture)
    return {} if found is None else dict(found.to_dict())


def _tags(architecture: str) -> list[str]:
    names = timm.list_pretrained(f"{architecture}.*")
    return [name.partition(".")[2] for name in names]


def _warn_of_preprocessing(architecture: str, path: Path) -> None:
    """Published weights of one architecture often differ in size and crop."""
    parts = ("input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std")
    tags = _tags(architecture)
    known = {
        canonical_json({part: _plain(found.get(part)) for part in parts})
        for found in (_registered(architecture, tag) for tag in tags)
    }
    if len(known) > 1:
        log.warning(
            "%s does not say how images are preprocessed, and weights of %s differ in it; timm's "
            "default is taken (name a tag to say otherwise, as in %s%s.%s, or lay the model's "
            "config.json beside it)",
            path, architecture, TIMM, architecture, tags[0],
        )  # fmt: skip


def _warn_of_resizing(
    model: torch.nn.Module, shapes: Mapping[str, torch.Size], tower: TimmSource
) -> None:
    """timm resizes positions, patches and windows of another size without a word."""
    resized = [
        f"{name} {tuple(shapes[name])} to {tuple(tensor.shape)}"
        for name, tensor in model.state_dict().items()
        if name in shapes and shapes[name].numel() != tensor.numel()
    ]
    if resized:
        log.warning(
            "%s is of another size than %s%s, so that timm resizes %s (name the architecture that "
            "it was trained as, or lay the model's config.json beside it)",
            tower.weights, TIMM, tower.architecture, some(resized, 2),
        )  # fmt: skip


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _state(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file, averaged weights before others.

    Raises:
        EncoderError: damaged, or it holds more than tensors.
    """
    try:
        found = load_state_dict(str(path), device="cpu", weights_only=True)
    except Exception as error:  # unpickling and safetensors raise many kinds
        hint = ""
        if "weights_only" in str(error).lower():
            hint = f"; {MORE_THAN_TENSORS}: {how_to_save(path, '[KEY]', trusted=True)}"
        raise EncoderError(
            f"{path}: cannot be read as weights ({type(error).__name__}: {first_line(error)}){hint}"
        ) from None
    if not found or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise EncoderError(
            f"{path}: cannot be read as weights (not a table of tensors): "
            f"{describe_content(found)}; {how_to_save(path, '[KEY]')} saves one by itself"
        )
    return dict(found)


def _classes(record: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> int:
    """Return how many classes the classifier of a file has; 0 where it has none."""
    named = record.get("classifier") or ()
    names = (named,) if isinstance(named, str) else tuple(named)
    found = (state.get(f"{name}.weight") for name in (*names, *_CLASSIFIERS))
    return next((len(weight) for weight in found if weight is not None), 0)


def _unknown_tag(architecture: str, tag: str) -> EncoderError:
    tags = _tags(architecture)
    near = get_close_matches(tag, tags, n=3, cutoff=0.5)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    return EncoderError(
        f"unknown weights {tag!r} for {TIMM}{architecture}{hint}; known tags: "
        f"{', '.join(tags) or 'none'}; or give the path of a weights file"
    )


def _unusable(tower: TimmSource, name: str, error: Exception) -> EncoderError:
    if isinstance(error, ImportError):
        return EncoderError(f"{name} needs {error.name or error}")
    lines = [line.strip()[:300] for line in str(error).strip().splitlines()[:3]]
    text = " ".join(lines) or type(error).__name__
    if tower.weights is not None:
        return EncoderError(f"{tower.weights} does not fit {TIMM}{tower.architecture}: {text}")
    if tower.seed is not None:
        return EncoderError(f"{name}: cannot be built ({text})")
    return EncoderError(
        f"{name}: its weights cannot be fetched or loaded ({text}). Where the network is not "
        "reachable, copy the weights file (and the config.json beside it) here and give its path "
        "as --pretrained"
    )
