"""Adapters inside image towers, and what of a model trains.

``insert_adapters(model, [AdapterSpec("adaptformer")], context=AdapterContext(num_classes=1000))``
leaves the features as they were, to rounding, and registers the adapters as
``model.visual.adapters``.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from ltcache.encoder.adapters.adaptformer import AdaptFormer
from ltcache.encoder.adapters.base import AdapterContext, AdapterSpec, TowerAdapter
from ltcache.encoder.adapters.checkpointing import set_checkpointing
from ltcache.encoder.adapters.lora import LoRA
from ltcache.encoder.adapters.sg_adapter import SGAdapter
from ltcache.encoder.adapters.sites import AdapterSite, sites_of
from ltcache.encoder.adapters.trainable import TRAINABLE, reset_tower, set_trainable, train_mode
from ltcache.encoder.adapters.visual_attention import VisualAttention
from ltcache.errors import UsageError
from ltcache.heads import keyword_arguments

TOWER_ADAPTERS: dict[str, type[TowerAdapter]] = {
    "adaptformer": AdaptFormer,
    "lora": LoRA,
    "sg_adapter": SGAdapter,
    "visual_attention": VisualAttention,
}


def insert_adapters(
    model: Any,
    specs: Sequence[AdapterSpec],
    *,
    seed: int = 0,
    context: AdapterContext | None = None,
) -> None:
    """Build adapters, attach them to a model's image tower and register them as
    ``model.visual.adapters``, so that their tensors are named ``visual.adapters.NAME.*`` (those of
    ``lora`` ``....parametrizations.*``).

    Args:
        model: an encoder's, in place; its device and precision are taken over.
        specs: names of :data:`TOWER_ADAPTERS` and options, each name once.
        seed: of the start values. context: of options that are not stated.

    Raises:
        UsageError: an unknown name or option, or a name twice.
        EncoderError: an image tower that an adapter has no place in.
    """
    visual = model.visual
    present = dict(getattr(visual, "adapters", {}))
    weight = next(visual.parameters())
    built: dict[str, TowerAdapter] = {}
    with torch.random.fork_rng(devices=[]):  # layers draw start values that are then replaced
        for spec in specs:
            _check(spec, {*present, *built})
            kind = TOWER_ADAPTERS[spec.name]
            given = {"seed": seed, "context": context or AdapterContext(), **spec.options}
            built[spec.name] = kind(visual, **given).to(device=weight.device, dtype=weight.dtype)
    if built:  # before they are attached: what runs the tower meanwhile finds all its tensors
        visual.adapters = nn.ModuleDict({**present, **built})
    for adapter in built.values():
        adapter.train(visual.training).attach(visual)


def adapters_of(model: Any) -> list[AdapterSpec]:
    """Return the adapters of a model's image tower, with resolved options."""
    found = dict(getattr(model.visual, "adapters", {}))
    return [AdapterSpec(name, adapter.options) for name, adapter in found.items()]


def merge_adapters(model: Any) -> list[AdapterSpec]:
    """Fold into the weights what can be, in place, and return the adapters that are left."""
    visual = model.visual
    found: dict[str, TowerAdapter] = dict(getattr(visual, "adapters", {}))
    for name, adapter in found.items():
        if adapter.mergeable:
            adapter.merge(visual)
            del visual.adapters[name]
    if found and not visual.adapters:
        del visual.adapters
    return adapters_of(model)


def _check(spec: AdapterSpec, taken: set[str]) -> None:
    if spec.name not in TOWER_ADAPTERS:
        raise _unknown("adapter", spec.name, list(TOWER_ADAPTERS))
    if spec.name in taken:
        raise UsageError(f"the image tower already has an adapter {spec.name!r}")
    known = [n for n in keyword_arguments(TOWER_ADAPTERS[spec.name]) if n not in _NOT_OPTIONS]
    for option in spec.options:
        if option not in known:
            raise _unknown(f"option of {spec.name}", option, known)


_NOT_OPTIONS = ("seed", "context")


def _unknown(what: str, name: str, known: list[str]) -> UsageError:
    near = get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UsageError(f"unknown {what} {name!r}{hint} Known: {', '.join(known)}")


__all__ = [
    "TOWER_ADAPTERS",
    "TRAINABLE",
    "AdapterContext",
    "AdapterSite",
    "AdapterSpec",
    "TowerAdapter",
    "adapters_of",
    "insert_adapters",
    "merge_adapters",
    "reset_tower",
    "set_checkpointing",
    "set_trainable",
    "sites_of",
    "train_mode",
]
