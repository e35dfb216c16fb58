"""The methods, as data: every family's entries under their names."""

from __future__ import annotations

from collections.abc import Iterable

from ltcache.errors import UsageError, did_you_mean
from ltcache.methods.families import (
    composites,
    contrast,
    decoupled,
    experts,
    h2t,
    losses,
    memory,
    texts,
)
from ltcache.methods.families.h2t import FUSED_FORMS
from ltcache.methods.settings import require_name
from ltcache.methods.spec import Method
from ltcache.methods.unavailable import UNAVAILABLE

_ALL = (
    *losses.METHODS,
    *decoupled.METHODS,
    *experts.METHODS,
    *contrast.METHODS,
    *memory.METHODS,
    *composites.METHODS,
    *texts.METHODS,
    *h2t.METHODS,
)

METHODS: dict[str, Method] = {method.name: method for method in _ALL}
if len(METHODS) != len(_ALL):
    raise RuntimeError("two methods share a name")

ENCODER_TUNINGS = frozenset(
    ["ballad-code", "bias", "full", "layer-norm", "lift", "lift-plus", "lora", "lp-ft", "wise-ft"]
)
"""Names of fine-tunings (``ltcache finetune``) that are no methods on cached features."""

ALIASES = {
    "h2t": "dr+h2t",
    "zs": "zero-shot",
    "bs": "balanced-softmax",
    "la": "logit-adjustment",
    "cmo": "ce+cmo",
}


def method_by_name(name: str) -> Method:
    """Return a method.

    Raises:
        UsageError: there is none of that name (the nearest are named), it tunes the encoder, or it
            is a known one that cannot be trained here (with what it would need).
    """
    name = ALIASES.get(name, name)
    if (known := known_method(name)) is not None:
        return known
    if name.lower() in UNAVAILABLE:
        raise UsageError(f"not trainable on cached features: {UNAVAILABLE[name.lower()]}")
    near = nearest_names(name, METHODS)
    if name in ENCODER_TUNINGS:
        raise UsageError(
            f"{name} tunes the encoder, on images: ltcache finetune --method {name}; on cached "
            f"features {near}"
        )
    raise UsageError(f"unknown method {name!r}; {near}")


def known_method(name: str) -> Method | None:
    """Return the method of a name, or what ``METHOD+FORM`` makes of one; None: there is none.

    Raises:
        UsageError: the method has no such form (with the reason).
    """
    partner, _, form = name.rpartition("+")
    if name not in METHODS and form in FUSED_FORMS and (base := known_method(partner)) is not None:
        return with_fusion(base, form)
    return METHODS.get(name)


def with_fusion(method: Method, form: str) -> Method:
    """Return a form of a method with fusion: the catalogue's, or one that is made of the method.

    Args:
        form: a key of :data:`FUSED_FORMS`.

    Raises:
        UsageError: an unknown form, or the method has none (with the reason).
    """
    require_name("fusion", form, FUSED_FORMS)
    name = f"{method.name}+{form}"
    if name in METHODS and method == METHODS.get(method.name):
        return METHODS[name]
    fused = FUSED_FORMS[form](method)
    for known in METHODS.values():
        if (known.feature, known.stages) == (fused.feature, fused.stages):
            raise UsageError(f"{name} would be {known.name}: take that name")
    return fused


def nearest_names(name: str, known: Iterable[str]) -> str:
    """Return in words which known names an unknown one is nearest to, and where all are listed."""
    hint = did_you_mean(name, known, 3)
    return f"{hint}{' ' if hint else ''}`ltcache methods` lists them all"
