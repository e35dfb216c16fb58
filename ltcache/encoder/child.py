"""Checkpoints of ``finetune`` as they are read: their record, their parent and their own tensors.

    CHECKPOINT/
      ltcache.json               kind, identity, parent, and what the tuning has to say
      open_clip_config.json open_clip_model.safetensors
                                 kind open_clip: a model like any other, which plain open_clip loads
      config.json model.safetensors
                                 the same of an image-only encoder, which plain timm loads
      adapters.safetensors       kind adapters: the adapters and every tensor that is not the
                                 parent's; without the parent and ltcache this is no model

timm takes the folder, ``timm.create_model("local-dir:CHECKPOINT", pretrained=True)``, or the file,
``timm.create_model(NAME, pretrained=True, num_classes=K, pretrained_cfg_overlay=dict(file=FILE))``.
A checkpoint with adapters has no configuration for others, so that nothing loads its bare base by
mistake; its parent is loaded by name and has to have the weights that were tuned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ltcache.encoder.adapters import AdapterContext, AdapterSpec, insert_adapters
from ltcache.encoder.identity import float_state, tower_digests
from ltcache.encoder.record import LOCAL
from ltcache.encoder.weights import misfits
from ltcache.errors import EncoderError, LtcacheError, first_line
from ltcache.records import differences, mend, one_line, result_folder

FORMAT = 1
RECORD_FILE, ADAPTERS_FILE = "ltcache.json", "adapters.safetensors"
WHOLE, ADAPTED = "open_clip", "adapters"
"""Kinds; the first is named after the family that was tuned first, and holds any whole model."""


@one_line
@dataclass(frozen=True)
class TunedCheckpoint:
    """A checkpoint's record.

    Attributes:
        folder: where it lies. kind: ``open_clip`` (a whole model) or ``adapters``.
        family: how its encoder's names begin (:data:`ltcache.encoder.ENCODER_FAMILIES`); empty:
            open_clip's.
        identity: of the encoder that it holds.
        parent: ``model``, ``pretrained``, ``activation`` and ``identity`` of what was tuned.
        record: what the tuning has to say: method, settings, history, metrics.
    """

    folder: Path
    kind: str
    identity: Mapping[str, Any]
    parent: Mapping[str, Any]
    record: Mapping[str, Any]
    family: str = ""

    @property
    def adapters(self) -> list[Mapping[str, Any]]:
        """Return what is left in the image tower, ``{name, options}`` each."""
        return list(self.identity["architecture"]["adapters"] or ())

    @property
    def parent_name(self) -> str:
        """Return what its parent is called, without folders."""
        return short_name(self.parent)


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a checkpoint of ``finetune``."""
    mend(folder)
    return (folder / RECORD_FILE).is_file()


def read_checkpoint(folder: str | Path) -> TunedCheckpoint:
    """Read the record of a checkpoint.

    Raises:
        EncoderError: there is none, or it cannot be read.
    """
    folder = result_folder(folder)
    path = folder / RECORD_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT or content["kind"] not in (WHOLE, ADAPTED):
            raise ValueError("written by a later ltcache; update ltcache")
        found = TunedCheckpoint(
            folder,
            **{name: content[name] for name in ("kind", "identity", "parent", "record")},
            family=content.get("family", ""),
        )
        _require_whole(found)
    except OSError as error:
        raise EncoderError(f"{path}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise EncoderError(f"{path}: no record of a checkpoint ({error})") from None
    return found


def _require_whole(child: TunedCheckpoint) -> None:
    """Raise the errors that reading a damaged record raises, where a part of it is missing."""
    if bool(child.adapters) != (child.kind == ADAPTED):
        raise ValueError("kind and adapters contradict each other")
    for adapter in child.adapters:
        dict(adapter["options"], name=adapter["name"])
    for tower in {"image": None, **child.identity["towers"]}:
        len(child.parent["identity"]["towers"][tower])
    for name in ("model", "pretrained", "activation"):
        if not isinstance(child.parent[name], str | None) or (
            name == "model" and child.kind == ADAPTED and not child.parent[name]
        ):
            raise ValueError(f"parent.{name} is no name")


def short_name(named: Mapping[str, Any]) -> str:
    """Return how an encoder was named, in one word and without folders."""
    model = named.get("model") or "an encoder that was never saved"
    if model.startswith(LOCAL):
        model = LOCAL + Path(model.removeprefix(LOCAL)).name
    weights = named.get("pretrained")
    return f"{model},{Path(weights).name}" if weights else model


def restore(model: Any, child: TunedCheckpoint) -> None:
    """Turn a parent's model into its child's: insert the adapters and load what is not its own.

    Args:
        model: the parent's, in float32 on the CPU; changed in place.

    Raises:
        EncoderError: the parent has other weights than were tuned, or a file is damaged.
    """
    before = float_state(model)
    _require_parent(before, child)
    already = len(child.parent["identity"]["architecture"]["adapters"] or ())
    specs = [AdapterSpec(item["name"], item["options"]) for item in child.adapters[already:]]
    try:
        insert_adapters(model, specs, context=AdapterContext())
    except (LtcacheError, TypeError, ValueError) as error:
        raise EncoderError(
            f"{child.folder / RECORD_FILE}: its adapters cannot be built ({error})"
        ) from None
    own = _read_tensors(child.folder / ADAPTERS_FILE)
    expected = model.state_dict()
    fresh = {name: value for name, value in expected.items() if name not in before}
    wrong = misfits(fresh | {n: expected[n] for n in own if n in expected}, own)
    if wrong:
        raise EncoderError(f"{child.folder / ADAPTERS_FILE} does not fit its adapters:\n{wrong}")
    model.load_state_dict(own, strict=False)


def require_recorded(identity: Mapping[str, Any], child: TunedCheckpoint) -> None:
    """Refuse an encoder that is not what its checkpoint's record says.

    Raises:
        EncoderError: with every field that differs.
    """
    found = differences(child.identity, identity)
    if found:
        lines = [f"  {name}: {a!r} recorded, {b!r} found" for name, (a, b) in found.items()]
        raise EncoderError(
            "\n".join([f"{child.folder} is not what its {RECORD_FILE} says:", *lines])
            + "\na file of it was changed or damaged: copy the checkpoint again, or tune again"
        )


def _require_parent(state: Mapping[str, torch.Tensor], child: TunedCheckpoint) -> None:
    towers = tower_digests(state)
    for tower, expected in child.parent["identity"]["towers"].items():
        if towers[tower] != expected:
            raise EncoderError(
                f"{child.folder} was tuned from {child.parent_name}, whose {tower} tower had "
                f"SHA-256 {expected[:16]}; what has that name now has {towers[tower][:16]}: these "
                f"are other weights. {parent_remedy(child.folder)}"
            )


def parent_remedy(folder: Path) -> str:
    """Return how a user says where a checkpoint's parent is."""
    return (
        f"Say where the parent is: give it as --pretrained {LOCAL}/path/to/parent, "
        f"put its folder beside {folder}, or correct parent.model in {folder / RECORD_FILE}"
    )


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise EncoderError(f"{path}: cannot be read as tensors ({first_line(error)})") from None
    return tensors
