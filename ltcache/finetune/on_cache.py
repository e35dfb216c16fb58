"""Tune the encoder of a cache, encode the cache again, and say how far its features moved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltcache.cache import Cache, open_cache, warn_of_shared
from ltcache.encoder import EncoderChoice, recorded_encoder
from ltcache.errors import UsageError
from ltcache.finetune.finetuning import FineTuned, finetune
from ltcache.finetune.methods import tuning_by_name
from ltcache.finetune.overrides import override_tuning
from ltcache.finetune.renewal import as_in_cache, check_renewal, renew
from ltcache.finetune.spec import FineTuning
from ltcache.finetune.tuned_run import tuned_run
from ltcache.manifest import Manifest, read_manifest
from ltcache.process import launched_process
from ltcache.records import one_line, require_local
from ltcache.runs import Run

if TYPE_CHECKING:
    from ltcache.extract import ExtractionProgress, ExtractReport

CACHE, RUN = "cache", "run"
"""Where the new cache and the run lie in a checkpoint, unless told otherwise."""


@one_line
@dataclass(frozen=True, eq=False)
class TunedCache:
    """A fine-tuning and what it has made of a cache.

    Attributes:
        tuned: the checkpoint. report: of the extraction into the new cache, or None without one.
        run: the tuned classifier on the new cache, or None without one.
    """

    tuned: FineTuned
    report: ExtractReport | None = None
    run: Run | None = None


def finetune_cache(
    source: str | Path | Manifest,
    method: str | Any,
    out: str | Path,
    cache: str | Path,
    *,
    new_cache: str | Path | None = None,
    extraction: bool = True,
    root: str | Path | None = None,
    model: str | None = None,
    pretrained: str | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    encoding: Callable[[ExtractionProgress], None] | None = None,
    **options: Any,
) -> TunedCache | None:
    """Tune the encoder of a cache on its own training split, then extract the cache again.

    The parent's cache is not touched. Heads that were fitted on it refuse the new features
    (status 4), and the other way round; ``ltcache diff`` compares the two.

    Args:
        source: of the images; the same rows as the cache, whose templates, descriptions and
            groups are taken.
        method, out, options: see :func:`ltcache.finetune.finetune`.
        new_cache: where the child's features go; None: ``out/cache``. The tuned classifier becomes
            the run ``out/run``.
        extraction: False stops at the checkpoint.
        model, pretrained: the encoder that made the cache; None: as the cache names it.
        encoding: called after every shard of the extraction.

    Returns:
        None in processes of a torchrun other than the first.

    Raises:
        IdentityError: the cache is of other rows, classes or of another encoder (status 4).
        UsageError: the cache does not name an encoder that can be loaded, or a place is taken.
    """
    from ltcache.extract import keep_splits

    place = require_local(new_cache if new_cache is not None else Path(out) / CACHE)
    parent_cache = open_cache(cache)
    manifest = source if isinstance(source, Manifest) else read_manifest(source, root=root)
    manifest = keep_splits(parent_cache, manifest)
    choice = EncoderChoice(model, pretrained, options.pop("activation", None), device="cpu")
    parent = recorded_encoder(parent_cache.provenance, str(parent_cache.path), choice)
    check_renewal(parent_cache, manifest, parent)
    manifest = as_in_cache(parent_cache, manifest)
    if extraction:
        _require_view(parent_cache, method, options.get("overrides"))
    warn_of_shared(parent_cache, "train", "val", "test")
    tuned = finetune(
        manifest, method, out, encoder=parent, overwrite=overwrite, workers=workers, **options
    )
    if not launched_process().first:
        return None
    if not extraction:
        return TunedCache(tuned)
    report = renew(
        parent_cache,
        tuned.encoder,
        manifest,
        place,
        template=tuned.record.method.template,
        cost={
            "finetune_seconds": tuned.record.cost.finetune_seconds,
            "finetune_passes": tuned.record.method.optimisation.epochs,
        },
        workers=workers,
        progress=encoding,
    )
    run = tuned_run(tuned, open_cache(place), Path(out) / RUN, overwrite)
    return TunedCache(tuned, report, run)


def _require_view(
    cache: Cache, method: str | FineTuning, overrides: Mapping[str, Any] | None
) -> None:
    """Refuse, before anything is trained, to judge by a view that the new cache would not hold."""
    named = tuning_by_name(method) if isinstance(method, str) else method
    view = override_tuning(named, overrides).eval_view
    if view not in cache.views:
        raise UsageError(
            f"eval_view={view}: {cache.path} has the views {', '.join(cache.views)} alone, and "
            "what is encoded again has these: add it first (ltcache extract --views), or take one "
            "of them"
        )
