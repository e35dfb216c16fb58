"""What a user names as an encoder, resolved to a configuration, a weights file and a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from open_clip import (
    get_model_config,
    get_pretrained_cfg,
    list_models,
    list_pretrained_tags_by_model,
)
from open_clip.factory import _find_checkpoint_in_dir
from open_clip.pretrained import download_pretrained, download_pretrained_from_hf

from ltcache.encoder.child import (
    ADAPTED,
    RECORD_FILE,
    TunedCheckpoint,
    is_checkpoint,
    parent_remedy,
    read_checkpoint,
)
from ltcache.encoder.choice import EncoderChoice
from ltcache.encoder.identity import ACTIVATIONS
from ltcache.encoder.record import (
    CONFIG_FILE,
    LOCAL,
    OpenClipConfig,
    agreed_activation,
    default_preprocess,
    known_values,
    read_open_clip_config,
    require_same_architecture,
)
from ltcache.errors import EncoderError, UsageError

HUB = "hf-hub:"
WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".npz")
_OFFLINE = (
    "Where the network is not reachable, copy the model's folder here and name it "
    f"{LOCAL}/path/to/folder, or give the path of its weights file as --pretrained."
)


@dataclass(frozen=True)
class EncoderSource:
    """Where an encoder comes from, with everything that building it needs.

    Args:
        name: what open_clip calls it: an architecture, or a folder or hub id with its prefix.
        config: its ``model_cfg``.
        checkpoint: the weights file; None only for random weights.
        seed: of random weights.
        activation: ``gelu`` or ``quick_gelu``, checked against the record.
        preprocess: what the record says about preprocessing, open_clip's names without the size.
        folder: the folder that relative paths in the configuration mean.
        provenance: how the user named it; not part of any identity.
        layers: checkpoints with adapters that are loaded on top of the weights, in this order.
        child: of a checkpoint of ``finetune``, its record.
    """

    name: str
    config: Mapping[str, Any]
    checkpoint: Path | None
    activation: str
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    folder: Path | None = None
    provenance: Mapping[str, str | None] = field(default_factory=dict)
    layers: tuple[TunedCheckpoint, ...] = ()
    child: TunedCheckpoint | None = None


def resolve(choice: EncoderChoice) -> EncoderSource:
    """Resolve a model's name; see :func:`ltcache.encoder.load_encoder` for the forms.

    Raises:
        UsageError: options that cannot go together.
        EncoderError: unknown, missing, unreachable, or contradicted by its record.
    """
    if choice.activation is not None and choice.activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UsageError(f"activation {choice.activation!r} is not one of {known}")
    model, pretrained = choice.name, choice.pretrained
    if model == "embedded":
        refuse_pretrained(model, pretrained)
        from ltcache.embedded import encoder_path

        return _from_folder(Path(encoder_path()), choice)
    if (checkpoint := checkpoint_named(model)) is not None:
        return _from_checkpoint(checkpoint, choice)
    if model.startswith(LOCAL):
        refuse_pretrained(model, pretrained)
        return _from_folder(Path(model[len(LOCAL) :]).expanduser(), choice)
    if model.startswith(HUB):
        refuse_pretrained(model, pretrained)
        return _from_hub(choice)
    if "," in model:
        model, _, tag = (part.strip() for part in model.partition(","))
        if pretrained is not None:
            raise UsageError(f"{choice.model!r} names its weights: leave out --pretrained")
        pretrained = tag
        choice = replace(choice, model=model, pretrained=tag)  # recorded apart, as it may be named
    return _from_architecture(model, pretrained, choice)


def refuse_pretrained(model: str, pretrained: str | None) -> None:
    """Refuse weights for a model that brings its own."""
    if pretrained is not None:
        raise UsageError(
            f"{model!r} brings its own weights, so --pretrained {pretrained} would be ignored: "
            "leave it out, or name an architecture instead"
        )


def _from_folder(folder: Path, choice: EncoderChoice) -> EncoderSource:
    if not folder.is_dir():
        raise EncoderError(f"{folder}: no such folder")
    record = read_open_clip_config(folder / CONFIG_FILE)
    found = _find_checkpoint_in_dir(folder)
    if found is None:
        raise EncoderError(
            f"{folder}: no weights (a .safetensors, .bin or .pth file) beside {CONFIG_FILE}"
        )
    source = _described(f"{LOCAL}{folder}", Path(found), record, str(folder / CONFIG_FILE), choice)
    return replace(source, folder=folder)


def _described(
    name: str, weights: Path, record: OpenClipConfig, called: str, choice: EncoderChoice
) -> EncoderSource:
    trained = record.quick_gelu
    activation = agreed_activation(choice.activation, trained, trained, called)
    return EncoderSource(
        name, record.model, weights, activation, record.preprocess, provenance=choice.provenance
    )


def checkpoint_named(model: str) -> Path | None:
    """Return the folder of the checkpoint that a model's name means, also by its plain path, or
    None where it means something else."""
    if model == "embedded" or model.startswith(HUB):
        return None
    if not model.startswith(LOCAL) and get_model_config(model.replace("/", "-")) is not None:
        return None
    folder = Path(model.removeprefix(LOCAL)).expanduser()
    return folder if is_checkpoint(folder) else None


def child_provenance(child: TunedCheckpoint, choice: EncoderChoice) -> dict[str, str | None]:
    """Return how the encoder of a checkpoint is named, its parent too."""
    named, model = choice.provenance, f"{LOCAL}{choice.name.removeprefix(LOCAL)}"
    return {**named, "model": model, "parent": child.parent_name}


def _from_checkpoint(folder: Path, choice: EncoderChoice) -> EncoderSource:
    child = read_checkpoint(folder)
    named = child_provenance(child, choice)
    if child.kind != ADAPTED:
        refuse_pretrained(f"{LOCAL}{folder}", choice.pretrained)
        return replace(_from_folder(folder, choice), provenance=named, child=child)
    parent = parent_source(child, choice, resolve)
    trained = parent.activation == ACTIVATIONS[True]
    agreed_activation(choice.activation, trained, trained, str(folder / RECORD_FILE))
    return replace(parent, provenance=named, layers=(*parent.layers, child), child=child)


_Source = TypeVar("_Source")


def parent_source(
    child: TunedCheckpoint, choice: EncoderChoice, resolver: Callable[[EncoderChoice], _Source]
) -> _Source:
    """Return the source of a checkpoint's parent: as given, as recorded, or beside the checkpoint.

    Args:
        resolver: from a choice to a source, of the checkpoint's family.

    Raises:
        EncoderError: it cannot be had under any of these names.
    """
    model, weights = child.parent["model"], child.parent["pretrained"]
    if choice.pretrained is not None:
        model, weights = choice.pretrained, None
    elif model.startswith(LOCAL):
        moved = child.folder.resolve().parent / Path(model.removeprefix(LOCAL)).name
        if moved.is_dir() and not Path(model.removeprefix(LOCAL)).is_dir():
            model = f"{LOCAL}{moved}"
    where = Path(model.removeprefix(LOCAL)).expanduser()
    if where.exists() and where.resolve() == child.folder.resolve():
        raise EncoderError(
            f"{child.folder} cannot be its own parent. {parent_remedy(child.folder)}"
        )
    try:
        parent = EncoderChoice(model, weights, child.parent["activation"])
        return resolver(replace(parent, cache_dir=choice.cache_dir))
    except (EncoderError, UsageError) as error:
        raise EncoderError(
            f"{child.folder} holds what was tuned of {child.parent_name}, which cannot be loaded: "
            f"{error}\n{parent_remedy(child.folder)}"
        ) from None


def _from_hub(choice: EncoderChoice) -> EncoderSource:
    model, cache_dir = choice.name, choice.cache_dir
    repository = model[len(HUB) :]
    try:
        config = Path(download_pretrained_from_hf(repository, CONFIG_FILE, cache_dir=cache_dir))
        weights = Path(download_pretrained_from_hf(repository, cache_dir=cache_dir))
    except Exception as error:  # the hub's client raises many kinds
        hint = f"; an image-only model of timm is named timm:{model}" if "timm/" in model else ""
        raise _unreachable(model, error, hint) from None
    record = read_open_clip_config(config)
    return _described(model, weights, record, f"{CONFIG_FILE} of {model}", choice)


def _from_architecture(model: str, pretrained: str | None, choice: EncoderChoice) -> EncoderSource:
    name = model.replace("/", "-")
    config = get_model_config(name)
    if config is None:
        raise EncoderError(
            f"unknown architecture {model!r}{_nearest(name, list_models())}; a folder is named "
            f"{LOCAL}/path and a hub model {HUB}org/name"
        )
    if pretrained is None:
        raise UsageError(
            f"{model!r} names an architecture without weights: give --pretrained (one of "
            f"{_listed(list_pretrained_tags_by_model(name))}, or the path of a weights file); "
            "'random:0' builds it with random weights, for tests and timing only"
        )
    built = bool(config.get("quick_gelu", False))
    if pretrained.split(":")[0] == "random":
        chosen = choice.activation or ACTIVATIONS[built]
        seed = parse_seed(pretrained)
        provenance = {**choice.provenance, "pretrained": f"random:{seed}"}
        return EncoderSource(name, config, None, chosen, seed=seed, provenance=provenance)
    if tag := get_pretrained_cfg(name, pretrained):
        return _from_tag(name, pretrained, tag, config, choice)
    return _from_file(name, _weights_file(name, pretrained), config, choice)


def _from_tag(
    name: str,
    pretrained: str,
    tag: Mapping[str, Any],
    config: Mapping[str, Any],
    choice: EncoderChoice,
) -> EncoderSource:
    built = bool(config.get("quick_gelu", False))
    trained = bool(tag.get("quick_gelu", built))
    chosen = agreed_activation(choice.activation, built, trained, f"the tag {pretrained!r}", name)
    try:
        checkpoint = Path(download_pretrained(dict(tag), cache_dir=choice.cache_dir))
    except Exception as error:
        raise _unreachable(f"{name},{pretrained}", error) from None
    preprocess, named = known_values(tag), choice.provenance
    return EncoderSource(name, config, checkpoint, chosen, preprocess=preprocess, provenance=named)


def _from_file(
    name: str, path: Path, config: Mapping[str, Any], choice: EncoderChoice
) -> EncoderSource:
    activation, named = choice.activation, choice.provenance
    built = bool(config.get("quick_gelu", False))
    beside = path.parent / CONFIG_FILE
    if beside.is_file():
        record = read_open_clip_config(beside)
        require_same_architecture(name, config, beside, record.model)
        chosen = agreed_activation(activation, built, record.quick_gelu, str(beside), name)
        preprocess = record.preprocess
    else:
        if activation is None and not name.endswith("-quickgelu"):
            raise UsageError(
                f"{path} does not say which activation it was trained with, and the wrong one "
                "costs CLIP about four points without an error: give --activation quick_gelu "
                "(OpenAI's weights and what was tuned from them, MetaCLIP, DFN) or "
                "--activation gelu (most others)"
            )
        chosen = activation or ACTIVATIONS[built]
        preprocess = default_preprocess(name, path)
    return EncoderSource(name, config, path, chosen, preprocess=preprocess, provenance=named)


def _weights_file(name: str, pretrained: str) -> Path:
    path = Path(pretrained).expanduser()
    if path.is_file():
        return path
    if path.suffix in WEIGHT_SUFFIXES or "/" in pretrained:
        raise EncoderError(f"{path}: no such weights file")
    tags = list_pretrained_tags_by_model(name)
    raise EncoderError(
        f"unknown weights {pretrained!r} for {name}{_nearest(pretrained, tags)}; known tags: "
        f"{_listed(tags)}; or give the path of a weights file"
    )


def parse_seed(pretrained: str) -> int:
    """Return the seed of ``random:SEED``, 0 where it has none."""
    _, _, seed = pretrained.partition(":")
    if seed and not seed.isdecimal():
        raise UsageError(f"--pretrained {pretrained}: the seed is a whole number, as in 'random:0'")
    return int(seed or 0)


def _nearest(name: str, known: list[str]) -> str:
    lower = {item.lower(): item for item in known}
    near = [lower[key] for key in get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    return f"; nearest: {', '.join(near)}" if near else ""


def _listed(names: list[str]) -> str:
    return ", ".join(names) if names else "no published tag"


def _unreachable(what: str, error: Exception, hint: str = "") -> EncoderError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return EncoderError(f"{what}: cannot be fetched ({lines[0][:300]}){hint}. {_OFFLINE}")
