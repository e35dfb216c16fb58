"""What a cache keeps beside the images' features: class texts, and the state of the encoder."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ltcache.cache import Cache, EncoderState, Layer, Plan, PromptEmbeddings
from ltcache.manifest import Manifest

if TYPE_CHECKING:
    from ltcache.encoder import Encoder


_OF_TEXTS = ("classes", "templates", "descriptions")
"""What class texts are made of, in the header of a manifest."""


def prompts_after(cache: Cache, manifest: Manifest, encoder: Encoder) -> list[PromptEmbeddings]:
    """Return the class texts of a cache whose list becomes ``manifest``.

    Those of the manifest are encoded where classes or templates have changed. Sets that were added
    to the cache stay as long as its classes do; a warning names those that do not.
    """
    old, new = cache.manifest.header(), manifest.header()
    changed = [part for part in _OF_TEXTS if old[part] != new[part]]
    kept = [cache.prompts(name) for name in cache.prompt_names]
    if kept and not changed:
        return kept
    made = default_prompts(encoder, manifest)
    own = {"default", *(["descriptions"] if cache.manifest.descriptions else [])}
    own |= {prompts.name for prompts in made}
    added = [prompts for prompts in kept if prompts.name not in own]
    if "classes" not in changed:
        return [*made, *added]
    if added:
        warnings.warn(
            f"{cache.path}: its classes have changed, so that the class texts "
            f"{', '.join(prompts.name for prompts in added)} are no longer in it: add them again "
            f"with ltcache prompts {cache.path} --templates FILE --name {added[0].name}",
            stacklevel=2,
        )
    return made


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
