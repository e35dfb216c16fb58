"""``extract``: from a manifest and an encoder to a finished cache."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltcache.cache import Cache, Plan, finalise, open_cache, read_plan, read_plans
from ltcache.cache.fingerprint import file_digest, require_equal
from ltcache.cache.layout import index_path
from ltcache.errors import CacheError, UsageError
from ltcache.extract.checks import check_choice, check_files, check_place
from ltcache.extract.encode import Options, encode_plan, uncommitted
from ltcache.extract.growth import Growth, check_sample, number_items, plan_growth
from ltcache.extract.pipeline import Stages
from ltcache.extract.report import ExtractReport, Progress, make_report
from ltcache.extract.texts import default_prompts, encoder_state, kept_prompts
from ltcache.manifest import Manifest, read_manifest

if TYPE_CHECKING:
    from ltcache.encoder import Encoder

SHARD_SIZE = 1024
"""Items in a shard: what a kill can cost at most, and one file to open per so many rows."""


def extract(
    source: str | Path | Manifest,
    out: str | Path,
    *,
    encoder: Encoder | None = None,
    model: str = "embedded",
    pretrained: str | None = None,
    root: str | Path | None = None,
    views: Sequence[str] = ("center",),
    fields: Sequence[str] | None = None,
    batch_size: int | None = None,
    shard_size: int | None = None,
    workers: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
    activation: str | None = None,
    max_failures: float = 0.01,
    retry_failed: bool = False,
    rehash: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> ExtractReport:
    """Encode every image of ``source`` and every class prompt into the cache ``out``.

    An interrupted extraction goes on where it stopped; a finished one is reused at once. Where
    ``source`` has changed since, only new content is encoded: relabelling, moving rows between
    splits and deleting them change the cache's manifest alone.

    Args:
        source: anything :func:`ltcache.manifest.read_manifest` takes, or a manifest.
        out: the cache's directory.
        encoder: loaded already; else ``model``, ``pretrained``, ``device``, ``precision`` and
            ``activation`` say what to load (:func:`ltcache.encoder.load_encoder`).
        root: where the images are, if not where the source says.
        views: ``center``.
        fields: ``embedding`` and, for towers that have it, ``pooled``; all by default.
        batch_size: images in one forward pass; 16 on a CPU, 256 on a GPU.
        shard_size: images in one file; what a kill can cost at most.
        workers: decoding threads; the number of processors by default.
        threads: compute threads on a CPU; torch's default. Part of the plan.
        max_failures: share of failed images above which extraction gives up, judged from 1,000
            images on; every failed row stays listed with its reason.
        retry_failed: encode images again that failed before.
        rehash: read images again that the cache knows by name, and encode those that changed.
        progress: called after every shard.

    Raises:
        LtcacheError: unreadable source, missing images, an unusable encoder, too many failures.
        IdentityError: ``out`` holds something else (status 4); names every differing field.
    """
    started = time.perf_counter()
    out = Path(out)
    manifest = source if isinstance(source, Manifest) else read_manifest(source, root=root)
    check_choice(views, batch_size, shard_size)
    check_place(out)
    begun = read_plan(out)
    unfinished = None if index_path(out).exists() else begun
    _set_threads(threads, begun)
    if encoder is None:
        from ltcache.encoder import load_encoder

        encoder = load_encoder(
            model, pretrained, device=device, precision=precision, activation=activation
        )
    options = Options(workers or os.cpu_count() or 1, max_failures, progress)
    plan = Plan(
        encoder=encoder.identity,
        numerics=encoder.numerics() | {"decoder": "pillow"},
        manifest=manifest.identity(),
        views=tuple(views),
        fields=_dims(encoder, fields),
        items=0,
        shard_size=shard_size or (unfinished.shard_size if unfinished else SHARD_SIZE),
        micro_batch=batch_size or (unfinished.micro_batch if unfinished else _batch_size(encoder)),
    )
    if index_path(out).exists():
        return _grow(out, plan, manifest, encoder, options, retry_failed, rehash, started)
    check_files(manifest, max_failures)
    items, uris = number_items(manifest)
    plan = replace(plan, items=len(uris))
    stages = Stages()
    encoded = encode_plan(out, plan, uris, manifest, encoder, stages, options)
    prompts = default_prompts(encoder, manifest)
    rows = finalise(out, [plan], manifest, items, encoder_state(encoder, plan), prompts)
    return make_report(out, rows, encoded, stages.binding(), started)


def _grow(
    out: Path,
    wanted: Plan,
    manifest: Manifest,
    encoder: Encoder,
    options: Options,
    retry_failed: bool,
    rehash: bool,
    started: float,
) -> ExtractReport:
    """Bring a finished cache to a manifest: reuse it, or encode what is new and finish again."""
    cache = open_cache(out)
    before = file_digest(index_path(out))
    plans = read_plans(out)
    _check_same(out, plans[0], wanted)
    same = manifest.identity() == cache.manifest.identity()
    if not rehash:
        check_sample(cache, manifest)
    if same and not rehash and not (retry_failed and "failed" in _statuses(cache)):
        return make_report(out, cache.manifest.rows, 0, "reused", started)
    plan, growth = _next_plan(cache, plans, wanted, manifest, options, retry_failed, rehash)
    encoded, stages = 0, Stages()
    if plan is not None:
        _require(out, "numerics", plan.numerics, wanted.numerics)
        encoded = encode_plan(out, plan, growth.uris, manifest, encoder, stages, options)
        plans = [*plans[: plan.number - 1], plan]
    prompts = kept_prompts(cache, manifest) or default_prompts(encoder, manifest)
    if file_digest(index_path(out)) != before:
        raise CacheError(f"{out} was changed by another process meanwhile: run this again")
    rows = finalise(out, plans, manifest, growth.items, encoder_state(encoder, plans[0]), prompts)
    return make_report(out, rows, encoded, stages.binding() if encoded else "known images", started)


def _next_plan(
    cache: Cache,
    plans: list[Plan],
    wanted: Plan,
    manifest: Manifest,
    options: Options,
    retry_failed: bool,
    rehash: bool,
) -> tuple[Plan | None, Growth]:
    """Return the plan of what is new, or None where nothing is.

    An extension that was interrupted is continued if it is the same; else its committed shards
    count as known content, and a new plan numbers on behind it.
    """

    def compare(known: list[Plan]) -> Growth:
        return plan_growth(
            cache, known, manifest, retry_failed=retry_failed, rehash=rehash,
            workers=options.workers,
        )  # fmt: skip

    last = plans[-1]
    if len(plans) > 1 and uncommitted(cache.path, last):
        growth = compare(plans[:-1])
        if growth.images == last.images:
            return last, growth
    growth = compare(plans)
    if not len(growth.uris):
        return None, growth
    plan = replace(
        plans[0],
        manifest=wanted.manifest,
        items=len(growth.uris),
        first_item=last.end,
        first_shard=last.shards.stop,
        images=growth.images,
        number=last.number + 1,
    )
    return plan, growth


def _check_same(out: Path, existing: Plan, wanted: Plan) -> None:
    """Refuse to take features of another encoder, or fields that are not there."""
    _require(out, "encoder", existing.encoder, wanted.encoder)
    _require(out, "view", {k: existing.fields.get(k) for k in wanted.fields}, wanted.fields)


def _require(out: Path, kind: str, expected: Any, found: Any) -> None:
    remedy = f"{out} is finished and was made with the expected values: choose another --out"
    require_equal(kind, expected, found, remedy=remedy)


def _statuses(cache: Cache) -> list[str]:
    statuses: list[str] = cache.manifest.rows["status"].unique().to_pylist()
    return statuses


def _dims(encoder: Encoder, fields: Sequence[str] | None) -> dict[str, int]:
    unknown = sorted(set(fields or ()) - set(encoder.dims))
    if unknown:
        raise UsageError(
            f"this encoder has no field {', '.join(unknown)}, only {', '.join(encoder.dims)}"
        )
    return {name: dim for name, dim in encoder.dims.items() if fields is None or name in fields}


def _batch_size(encoder: Encoder) -> int:
    """On a CPU few: where activations outgrow what malloc keeps, page faults double the time."""
    return 256 if str(encoder.device).startswith("cuda") else 16


def _set_threads(threads: int | None, begun: Plan | None) -> None:
    """Set the compute threads: as asked, or as the cache was begun with; else torch's default."""
    import torch

    wanted = threads or (begun.numerics.get("threads") if begun else None)
    if wanted:
        torch.set_num_threads(int(wanted))
