"""Writing what ``finetune`` has made: a folder that appears whole, of one of two kinds.

Where nothing is left in the image tower the folder is a model of open_clip or timm like any other
(:mod:`ltcache.encoder.plain_model`); adapters
that are no function of weights alone are written apart from their parent
(:mod:`ltcache.encoder.child`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import ltcache
from ltcache.encoder.adapters import adapters_of
from ltcache.encoder.child import (
    ADAPTED,
    ADAPTERS_FILE,
    FORMAT,
    RECORD_FILE,
    WHOLE,
    short_name,
)
from ltcache.encoder.encoder import Encoder
from ltcache.encoder.identity import float_state, tower_digests
from ltcache.encoder.load import family_of
from ltcache.encoder.plain_model import apart
from ltcache.encoder.record import LOCAL
from ltcache.errors import UsageError
from ltcache.records import (
    PlaceKind,
    require_replaceable,
    result_folder,
    whole_folder,
)


def save_checkpoint(
    folder: str | Path,
    encoder: Encoder,
    *,
    parent: Encoder,
    record: Mapping[str, Any],
    extra: Callable[[Path], None] | None = None,
) -> None:
    """Write a tuned encoder, so that ``load_encoder("local-dir:FOLDER")`` gives it again.

    Afterwards the encoder's provenance names the folder. A checkpoint that is there is replaced;
    anything else is not; a checkpoint goes with all that lies in it.

    Args:
        encoder: of :meth:`Encoder.with_model`, asked for after the last change of its model.
        parent: what was tuned, with the weights that it was loaded with.
        record: what is to stand in ``ltcache.json``: method, settings, history, metrics.
        extra: writes more files into the folder that it is given, such as a head.

    Raises:
        UsageError: no place for a checkpoint, an encoder in half precision, a model that has
            changed since its encoder was made, or a parent that no name can be given for.
    """
    folder = result_folder(folder)
    require_place(folder, parent)
    state, before = _current_state(encoder, "encoder"), float_state(parent.model)
    family = family_of(encoder.family or "")
    assert family.write is not None  # of every encoder that require_place lets pass
    content = {
        "format": FORMAT,
        "kind": ADAPTED if encoder.adapters else WHOLE,
        "family": encoder.family,
        "ltcache": ltcache.__version__,
        "parent": {**_placed(parent.provenance), "identity": parent.identity},
        "record": dict(record),
    }
    if encoder.adapters:
        _require_base(encoder, parent)
        own = {name: value for name, value in state.items() if _differs(value, before.get(name))}
    elif set(state) != set(before):
        odd = ", ".join(sorted(set(state) ^ set(before))[:3])
        raise UsageError(f"the model has other tensors than its parent ({odd}): merge its adapters")

    identity = encoder.identity
    with whole_folder(folder) as partial:
        if extra is not None:
            extra(partial)
        if encoder.adapters:
            save_file(apart(own), partial / ADAPTERS_FILE)
        else:
            identity = {**identity, "tokenizer": family.write(partial, encoder, state)}
        record_text = _json({**content, "identity": identity})
        (partial / RECORD_FILE).write_text(record_text, encoding="utf-8")
    named = {"model": f"{LOCAL}{folder}", "pretrained": None, "activation": None}
    encoder.identity = identity
    encoder.provenance = {**named, "parent": short_name(parent.provenance)}


def mix_weights(model: Any, parent: Mapping[str, torch.Tensor], alpha: float) -> None:
    """Set a tuned model's weights to ``(1 - alpha) parent + alpha tuned`` (WiSE-FT: Wortsman et
    al., CVPR 2022, eq. 1), in place; at 0 and 1 they are the one and the other bit for bit.

    Towers and logit scale are mixed alike; what is no number of floating point stays as tuned.

    Args:
        parent: the parent model's ``state_dict``.
        alpha: 0..1.

    Raises:
        UsageError: an alpha that is no share, or adapters that the parent lacks and that cannot
            be mixed with its weights.
    """
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha={alpha} is not within 0 and 1")
    state = model.state_dict()
    if left := [spec.name for spec in adapters_of(model)]:
        raise UsageError(f"the parent has no {', '.join(left)}, so weights cannot be mixed with it")
    if odd := set(state) ^ set(parent):
        raise UsageError(f"not the model's parent: tensors differ ({', '.join(sorted(odd)[:3])})")
    with torch.no_grad():
        for name, tensor in state.items():
            if tensor.is_floating_point():
                start = parent[name].to(tensor)
                tensor.copy_(torch.lerp(start, tensor, alpha))


def require_place(folder: Path, parent: Encoder) -> None:
    """Refuse what :func:`save_checkpoint` could not write, before there is anything.

    Raises:
        UsageError: something else lies there, it is the parent, or no checkpoint can be written of
            the parent's family.
    """
    if parent.family is None or family_of(parent.family).write is None:
        raise UsageError(
            f"{parent.identity['architecture']['name']} is not tuned: checkpoints are written of "
            "open_clip's and timm's encoders"
        )
    folder = require_replaceable(folder, PlaceKind.CHECKPOINT)
    above = parent.source.folder, *(layer.folder for layer in parent.source.layers)
    if any(place is not None and place.resolve() == folder.resolve() for place in above):
        raise UsageError(f"{folder} is what is being tuned; choose another --out")


def _current_state(encoder: Encoder, what: str) -> dict[str, torch.Tensor]:
    """Return an encoder's tensors, which have to be those that its identity was made of."""
    if encoder.precision != "fp32":
        raise UsageError(f"the {what} is in {encoder.precision}: checkpoints are tuned in fp32")
    state = float_state(encoder.model)
    if tower_digests(state) != encoder.identity["towers"]:
        raise UsageError(
            f"the {what}'s model has changed since it was made: tune copy.deepcopy(encoder.model), "
            "and ask with_model again after the last change"
        )
    return state


def _require_base(encoder: Encoder, parent: Encoder) -> None:
    """Refuse a parent that cannot be loaded again below the adapters."""
    if not parent.provenance.get("model"):
        raise UsageError("the parent was never saved, so adapters cannot name it: save it first")
    _current_state(parent, "parent")
    if encoder.adapters[: len(parent.adapters)] != parent.adapters:
        raise UsageError("the encoder lacks adapters of its parent")


def _placed(named: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return how the parent was named, with paths that do not depend on where one stands."""
    model, weights = named.get("model"), named.get("pretrained")
    if model and model.startswith(LOCAL):
        model = LOCAL + str(Path(model.removeprefix(LOCAL)).expanduser().resolve())
    if weights and Path(weights).expanduser().is_file():
        weights = str(Path(weights).expanduser().resolve())
    return {"model": model, "pretrained": weights, "activation": named.get("activation")}


def _json(content: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the checkpoint's record cannot be written as JSON ({error})") from None
    return text + "\n"


def _differs(value: torch.Tensor, before: torch.Tensor | None) -> bool:
    return before is None or value.shape != before.shape or not torch.equal(value, before)
