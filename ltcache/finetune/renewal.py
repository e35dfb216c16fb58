"""The cache after fine-tuning: everything that the parent's holds, encoded again by the child."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ltcache.cache import Cache, add_cost, open_cache, store_prompts
from ltcache.encoder import Encoder, require_encoder_of
from ltcache.errors import UsageError
from ltcache.extract import ExtractReport, extract
from ltcache.manifest import Manifest
from ltcache.records import JsonObject, require_equal, telling_classes
from ltcache.texts import encode_prompts

if TYPE_CHECKING:
    from ltcache.extract import ExtractionProgress

log = logging.getLogger(__name__)

TOKENS = "tokens"
_FROM_MANIFEST = ("default", "descriptions")


def check_renewal(cache: Cache | str | Path, manifest: Manifest, parent: Encoder) -> Cache:
    """Refuse, before anything is trained, a cache that could not be made again afterwards.

    Args:
        cache: of the parent. manifest: with the root of its images.

    Raises:
        IdentityError: the cache is of other rows or classes, or of another encoder (status 4).
        UsageError: its features were imported.
    """
    cache = open_cache(cache)
    if not cache.provenance.get("model"):
        raise UsageError(f"{cache.path}: its features were imported, so no encoder is its parent")
    _require_rows(cache, manifest)
    require_encoder_of(cache, parent)
    return cache


def as_in_cache(cache: Cache, manifest: Manifest) -> Manifest:
    """Return the list with the templates, descriptions, groups and name that the cache has, which
    may differ from its source's: one set of class texts is tuned, scored and encoded."""
    settings = ("templates", "groups", "descriptions", "name")
    return replace(manifest, **{name: getattr(cache.manifest, name) for name in settings})


def renew(
    cache: Cache | str | Path,
    encoder: Encoder,
    manifest: Manifest,
    out: str | Path,
    *,
    template: str | None = None,
    cost: dict[str, float] | None = None,
    workers: int | None = None,
    progress: Callable[[ExtractionProgress], None] | None = None,
) -> ExtractReport:
    """Encode every split, view, field and set of class texts of a cache again, into a new one.

    An interrupted renewal goes on where it stopped. Tokens are left out where the child has none
    (adapters change the tower behind them).

    Args:
        cache: of the parent; it is not touched. encoder: the child. manifest: of the same rows,
            with the root of its images.
        out: the new cache.
        template: of the class texts that the child was tuned with; None: the cache's.
        cost: what tuning has cost, noted in the new cache: ``finetune_seconds``,
            ``finetune_passes`` over the images.
        workers, progress: see :func:`ltcache.extract.extract`.

    Raises:
        IdentityError: the rows differ, or ``out`` holds something else (status 4).
    """
    cache = open_cache(cache)
    _require_rows(cache, manifest)
    described = as_in_cache(cache, manifest)
    report = extract(
        described if template is None else replace(described, templates=(template,)),
        out,
        encoder=encoder,
        views=[view for view in cache.views if view != "center"] or None,
        view_seed=_view_seed(cache),
        fields=_fields(cache, encoder),
        workers=workers,
        progress=progress,
    )
    _texts_again(cache, encoder, Path(out))
    if cost and report.encoded:
        add_cost(Path(out), **cost)
    return report


def _require_rows(cache: Cache, manifest: Manifest) -> None:
    with telling_classes(cache.classes.names, manifest.classes.names):
        require_equal(
            "manifest",
            _rows(cache.manifest),
            _rows(manifest),
            remedy=f"bring {cache.path} up to date with ltcache extract first, or leave --cache "
            "out",
        )


def _rows(manifest: Manifest) -> JsonObject:
    identity = manifest.identity()
    return {name: identity[name] for name in ("num_rows", "rows", "classes")}


def _view_seed(cache: Cache) -> int | None:
    seeds = {cache.identities(view)["view"].get("seed") for view in cache.views} - {None}
    return seeds.pop() if seeds else None


def _fields(cache: Cache, encoder: Encoder) -> list[str]:
    known = dict.fromkeys(field for view in cache.views for field in cache.field_shapes(view))
    there = set(encoder.dims) | ({TOKENS} if encoder.token_shape else set())
    if lost := [field for field in known if field not in there]:
        log.warning("%s: not in the new cache, the tuned encoder has none", ", ".join(lost))
    return [field for field in known if field in there]


def _texts_again(cache: Cache, encoder: Encoder, out: Path) -> None:
    """Encode sets of class texts that were added to the cache by hand."""
    made = set(open_cache(out).prompt_names)
    for name in cache.prompt_names:
        if name in made or name in _FROM_MANIFEST or not encoder.has_texts:
            continue
        texts = [list(sentences) for sentences in cache.prompts(name).texts]
        store_prompts(out, encode_prompts(encoder, texts, name, cache.classes.identity()))
