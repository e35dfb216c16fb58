"""Another set of class texts for a cache that exists: the images are not touched."""

from __future__ import annotations

from pathlib import Path

from ltcache.cache import Cache, PromptEmbeddings, open_cache, store_prompts
from ltcache.encoder import (
    Encoder,
    EncoderChoice,
    encoder_of_cache,
    openai_simple_templates,
    openai_templates,
)
from ltcache.errors import UsageError
from ltcache.texts.encoding import encode_prompts
from ltcache.texts.sentences import (
    class_sentences,
    holds_class_sentences,
    read_class_sentences,
    read_templates,
)

NAMED_TEMPLATES = {"openai": openai_templates, "openai-simple": openai_simple_templates}
"""Template sets that come with open_clip: the 80 and the 7 of CLIP for ImageNet."""


def add_class_texts(
    cache: str | Path,
    templates: str | Path,
    *,
    name: str | None = None,
    encoder: Encoder | EncoderChoice | None = None,
) -> PromptEmbeddings:
    """Encode other texts of a cache's classes with its own encoder, and store them in it.

    Args:
        cache: the cache's directory.
        templates: a name of :data:`NAMED_TEMPLATES`, or a file: templates (text or JSON list), or
            sentences per class (JSON object of label or name -> list).
        name: of the new set; the file's name without its ending, or the template set's.
        encoder: loaded already, or which one to load; needed where it cannot be had under the name
            that the cache keeps.

    Raises:
        UsageError: templates that cannot be read.
        IdentityError: the encoder is not the one that made the cache.
    """
    opened = open_cache(cache)
    sentences = read_sentences(opened, templates)
    encoder = encoder_of_cache(opened, encoder)
    title = name or (str(templates) if templates in NAMED_TEMPLATES else Path(templates).stem)
    prompts = encode_prompts(encoder, sentences, title, opened.classes.identity())
    store_prompts(opened.path, prompts)
    return prompts


def read_sentences(cache: Cache, templates: str | Path) -> list[list[str]]:
    """Return the sentences of every class of a cache, C lists, from a template set or a file."""
    names = list(cache.classes.names)
    if not names:
        raise UsageError(f"{cache.path}: a cache without classes has no class texts")
    if holds_class_sentences(templates):
        return class_sentences((), names, read_class_sentences(templates, names))
    return class_sentences(template_set(templates), names)


def template_set(templates: str | Path) -> tuple[str, ...]:
    """Return the templates of a named set or of a file.

    Raises:
        UsageError: neither, or a template without a place for the class.
    """
    if templates in NAMED_TEMPLATES:
        return NAMED_TEMPLATES[str(templates)]()
    return read_templates(templates)
