"""What a cache keeps beside the images' features: class texts, and the state of the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ltcache.cache import Cache, EncoderState, Layer, Plan, PromptEmbeddings
from ltcache.manifest import Manifest

if TYPE_CHECKING:
    from ltcache.encoder import Encoder


def kept_prompts(cache: Cache, manifest: Manifest) -> list[PromptEmbeddings]:
    """Return the cache's class texts, where classes and templates have not changed."""
    old, new = cache.manifest.header(), manifest.header()
    if any(old[part] != new[part] for part in ("classes", "templates", "descriptions")):
        return []
    return [cache.prompts(name) for name in cache.prompt_names]


def default_prompts(encoder: Encoder, manifest: Manifest) -> list[PromptEmbeddings]:
    """Encode the manifest's own class texts: its templates, and its descriptions if it has any."""
    from ltcache.texts import class_sentences, encode_prompts

    if not encoder.has_texts or not len(manifest.classes):
        return []
    names = list(manifest.classes.names)
    texts = {"default": class_sentences(manifest.templates, names)}
    if manifest.descriptions:
        texts["descriptions"] = class_sentences(manifest.templates, names, manifest.descriptions)
    return [
        encode_prompts(encoder, sentences, name, manifest.classes.identity())
        for name, sentences in texts.items()
    ]


def encoder_state(encoder: Encoder, plan: Plan, layers: Sequence[Layer]) -> EncoderState:
    from ltcache.encoder import portable

    return EncoderState(
        identity=encoder.identity,
        numerics=plan.numerics,
        provenance=portable(encoder.provenance),
        logit_scale=encoder.logit_scale,
        logit_bias=encoder.logit_bias,
        projection=encoder.projection,
        projection_bias=encoder.projection_bias,
        rest=encoder.rest() if any("tokens" in layer.fields for layer in layers) else None,
    )
