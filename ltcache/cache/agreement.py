"""Do class prompts belong to the features and classes of a cache?"""

from __future__ import annotations

from collections.abc import Collection

from ltcache.cache.prompt_set import PromptEmbeddings
from ltcache.cache.reader import Cache
from ltcache.records import differences, digest, require_equal


def check_prompts(
    cache: Cache, prompts: PromptEmbeddings, allow_stale: Collection[str] = ()
) -> list[str]:
    """Refuse class texts that do not belong to the features and classes of a cache.

    Whoever uses class texts with features asks this: zero-shot, fits, tuning, ensembles, retrieval.

    Returns:
        The differing fields that ``allow_stale`` let pass.

    Raises:
        IdentityError: with every differing field of text tower, tokenizer and class list.
    """
    return require_equal(
        "prompts",
        *_origins(cache, prompts),
        allow_stale=allow_stale,
        remedy=f"encode the texts of {prompts.name!r} again for this cache with ltcache prompts",
    )


def foreign_parts(cache: Cache, prompts: PromptEmbeddings) -> list[str]:
    """Return which of ``classes``, ``text_tower`` and ``tokenizer`` are not those of a cache."""
    return sorted({field.split(".")[0] for field in differences(*_origins(cache, prompts))})


def _origins(
    cache: Cache, prompts: PromptEmbeddings
) -> tuple[dict[str, object], dict[str, object]]:
    """Return where class texts of a cache come from, and where these do.

    Features that were imported name no tokenizer, and neither do their texts: that is equal.
    """
    expected: dict[str, object] = {
        "text_tower": cache.encoder.get("towers", {}).get("text"),
        "tokenizer": cache.encoder.get("tokenizer"),
        "classes": digest(cache.classes.identity()),
    }
    return expected, {part: prompts.identity.get(part) for part in expected}
