"""The encoder that a record names: of a cache, a run or a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ltcache.cache import Cache
from ltcache.encoder.choice import EncoderChoice
from ltcache.encoder.encoder import Encoder
from ltcache.encoder.load import load_chosen
from ltcache.encoder.record import LOCAL
from ltcache.encoder.source import HUB
from ltcache.errors import UsageError
from ltcache.records import require_equal


def encoder_of_cache(cache: Cache, encoder: Encoder | EncoderChoice | None = None) -> Encoder:
    """Return the encoder that made a cache.

    Args:
        encoder: loaded already, or what the user says about it; by default the one that the cache
            names.

    Raises:
        UsageError: the user names none, and the cache names none that can be loaded.
        IdentityError: it is not the one that made the cache.
    """
    if not isinstance(encoder, Encoder):
        encoder = recorded_encoder(cache.provenance, str(cache.path), encoder or EncoderChoice())
    require_encoder_of(cache, encoder)
    return encoder


def require_encoder_of(cache: Cache, encoder: Encoder) -> None:
    """Refuse an encoder that is not the one that made a cache.

    Raises:
        IdentityError: with every field that differs.
    """
    require_equal(
        "encoder",
        cache.encoder,
        encoder.identity,
        remedy=f"name the encoder that made {cache.path} with --model and --pretrained",
    )


def recorded_encoder(named: Mapping[str, str | None], what: str, choice: EncoderChoice) -> Encoder:
    """Load the encoder that a user names, or else the one that a record names.

    An activation that is recorded belongs to the recorded model: it holds where the user names no
    model or that one, and is not forced on another.

    Args:
        named: the record (:attr:`Encoder.provenance`), with or without folders.
        what: the cache or run that keeps it, for messages.
        choice: what the user says in place of the record.

    Raises:
        UsageError: the user names no model, and the features were imported, or came from a folder
            or file, of which a record keeps only the last part.
        EncoderError: the encoder cannot be loaded.
    """
    if choice.model is None:
        model, pretrained = _loadable(named, what, choice.pretrained)
        choice = replace(choice, model=model, pretrained=pretrained)
    elif not _is_recorded(choice, named):
        return load_chosen(choice)
    return load_chosen(replace(choice, activation=choice.activation or named.get("activation")))


def portable(provenance: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return how an encoder was named, without folders: a cache may be published.

    ``local-dir:/home/me/models/mine`` becomes ``local-dir:mine``, a checkpoint path its file name.
    """
    result = dict(provenance)
    model, pretrained = result.get("model") or "", result.get("pretrained") or ""
    if model.startswith(LOCAL):
        result["model"] = LOCAL + Path(model.removeprefix(LOCAL)).name
    if pretrained.startswith(LOCAL):  # of a checkpoint with adapters: where its parent is
        result["pretrained"] = LOCAL + Path(pretrained.removeprefix(LOCAL)).name
    elif os.sep in pretrained and Path(pretrained).suffix:
        result["pretrained"] = Path(pretrained).name
    return result


def _is_recorded(choice: EncoderChoice, named: Mapping[str, str | None]) -> bool:
    """Whether the user names the model and the weights that a record names."""
    return _named_apart(choice.provenance) == _named_apart(named)


def _named_apart(provenance: Mapping[str, str | None]) -> tuple[str | None, str | None]:
    """Return model and weights without folders; ``ViT-B-16,openai`` names both in one word."""
    name = portable(provenance)
    model, pretrained = name.get("model"), name.get("pretrained")
    if model and "," in model and not model.startswith((LOCAL, HUB)):
        architecture, _, tag = model.partition(",")
        return architecture.strip(), tag.strip()
    return model, pretrained


def _loadable(
    named: Mapping[str, str | None], what: str, pretrained: str | None
) -> tuple[str, str | None]:
    """Return model and pretrained of a record, where it is enough to load them."""
    model, recorded = named.get("model"), named.get("pretrained")
    if not model:
        raise UsageError(
            f"{what}: its features were imported, so it names no encoder that can be loaded: give "
            "--model and --pretrained"
        )
    if model.startswith(LOCAL) or (Path(recorded or "").suffix and not pretrained):
        raise UsageError(
            f"{what} was made with {model}{f', {recorded}' if recorded else ''}, and a record "
            "keeps no folders: name it with --model and --pretrained"
        )
    return model, pretrained or recorded
