"""Which layers an extraction is to make: the views and fields that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ltcache.cache import CENTER, Layer, Shape, folder_of
from ltcache.errors import UsageError
from ltcache.extract.shard import TOKENS
from ltcache.images import View, parse_views
from ltcache.records import require_equal

if TYPE_CHECKING:
    from ltcache.encoder import Encoder


def first_fields(encoder: Encoder, fields: Sequence[str] | None) -> dict[str, int]:
    """Return the fields of a new cache's first layer: all by default, tokens never.

    Raises:
        UsageError: a field that the encoder does not have.
    """
    check_fields(encoder, fields)
    named = [name for name in fields or () if name != TOKENS]
    return {name: dim for name, dim in encoder.dims.items() if not named or name in named}


def check_fields(encoder: Encoder, fields: Sequence[str] | None) -> None:
    known = [*encoder.dims, *([TOKENS] if encoder.token_shape else [])]
    unknown = sorted(set(fields or ()) - set(known))
    if unknown:
        raise UsageError(f"this encoder has no field {', '.join(unknown)}, only {', '.join(known)}")


def missing_layers(
    encoder: Encoder,
    there: Sequence[Layer],
    views: Sequence[str] | None,
    fields: Sequence[str] | None,
    seed: int | None,
    partners: str = "",
) -> list[Layer]:
    """Return the layers that are to be added to those there are.

    Args:
        there: at least the first layer.
        views: names; by default those there are.
        fields: names; by default a view that is there keeps its fields, and a new one has those of
            the first layer. ``tokens`` alone come on top of these.
        seed: of random views; a view that is there must have been made with it if it is given.
        partners: digest of what new composites are made of.

    Raises:
        UsageError: an unknown view or field. IdentityError: a view that is there has another seed.
    """
    check_fields(encoder, fields)
    known = {layer.name: layer.view for layer in there}
    wanted = parse_views(views if views is not None else list(known), seed or 0)
    added: list[Layer] = []
    for view in wanted:
        if view.composite:
            view = replace(view, partners=known.get(view.name, {}).get("partners", partners))
        if view.name not in known:
            added += _new_view(encoder, there, view, fields)
            continue
        if seed is not None and view.random:
            remedy = "a view is made with one seed: choose another --out, or its own --view-seed"
            require_equal("view", dict(known[view.name]), view.identity(), remedy=remedy)
        has = {name for layer in there if layer.name == view.name for name in layer.fields}
        for name in dict.fromkeys(fields or ()):
            if name not in has:
                shapes = {name: shape_of(encoder, name)}
                added.append(Layer(folder_of(view.name, name), known[view.name], shapes))
    return added


def _new_view(
    encoder: Encoder, there: Sequence[Layer], view: View, fields: Sequence[str] | None
) -> list[Layer]:
    first = next(layer for layer in there if layer.folder == CENTER)
    named = [name for name in fields or () if name != TOKENS]
    kept = {name: shape_of(encoder, name) for name in named} or dict(first.fields)
    layers = [Layer(folder_of(view.name), view.identity(), kept)]
    if TOKENS in (fields or ()):
        shapes = {TOKENS: shape_of(encoder, TOKENS)}
        layers.append(Layer(folder_of(view.name, TOKENS), view.identity(), shapes))
    return layers


def shape_of(encoder: Encoder, field: str) -> Shape:
    """Return the shape of one crop's features."""
    return list(encoder.token_shape or ()) if field == TOKENS else encoder.dims[field]
