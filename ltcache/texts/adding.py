"""Another set of class texts for a cache that exists: the images are not touched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ltcache.cache import Cache, PromptEmbeddings, open_cache, store_prompts
from ltcache.encoder import (
    load_encoder,
    openai_simple_templates,
    openai_templates,
)
from ltcache.errors import UsageError
from ltcache.records import require_equal
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
    model: str | None = None,
    pretrained: str | None = None,
    device: str = "auto",
) -> PromptEmbeddings:
    """Encode other texts of a cache's classes with its own encoder, and store them in it.

    Args:
        cache: the cache's directory.
        templates: a name of :data:`NAMED_TEMPLATES`, or a file: templates (text or JSON list), or
            sentences per class (JSON object of label or name -> list).
        name: of the new set; the file's name without its ending, or the template set's.
        model, pretrained: the encoder, where it cannot be had under the name the cache keeps.

    Raises:
        UsageError: templates that cannot be read.
        IdentityError: the model is not the one whose text tower the cache belongs to.
    """
    opened = open_cache(cache)
    sentences = read_sentences(opened, templates)
    if model is None:
        model, pretrained = named_encoder(opened)
    activation = opened.provenance.get("activation")
    encoder = load_encoder(model, pretrained, device=device, activation=activation)
    require_equal(
        "encoder",
        opened.encoder,
        encoder.identity,
        remedy=f"name the encoder that made {cache} with --model and --pretrained",
    )
    title = name or (str(templates) if templates in NAMED_TEMPLATES else Path(templates).stem)
    prompts = encode_prompts(encoder, sentences, title, opened.classes.identity())
    store_prompts(opened.path, prompts)
    return prompts


def named_encoder(cache: Cache) -> tuple[str, str | None]:
    """Return model and pretrained as the cache names them, where that is enough to load them."""
    return recorded_encoder(cache.provenance, str(cache.path))


def recorded_encoder(
    named: Mapping[str, str | None], what: str, pretrained: str | None = None
) -> tuple[str, str | None]:
    """Return model and pretrained of a record of provenance, where it is enough to load them.

    Args:
        what: the cache or run that keeps the record, for messages.
        pretrained: in place of the recorded one.

    Raises:
        UsageError: the features were imported, or came from a folder or file, of which a record
            keeps only the last part.
    """
    model, recorded = named.get("model"), named.get("pretrained")
    if not model:
        raise UsageError(
            f"{what}: its features were imported, so it names no encoder that can be loaded: give "
            "--model and --pretrained"
        )
    if model.startswith("local-dir:") or (Path(recorded or "").suffix and not pretrained):
        raise UsageError(
            f"{what} was made with {model}{f', {recorded}' if recorded else ''}, and a record "
            "keeps no folders: name it with --model and --pretrained"
        )
    return model, pretrained or recorded


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
