"""``extract``: from a manifest and an encoder to a finished cache."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ltcache.cache import (
    CENTER,
    Cache,
    Layer,
    Plan,
    check_file_sizes,
    claim_layer,
    claim_plan,
    dims_of,
    finalise,
    first_layer,
    index_path,
    open_cache,
    read_index,
    read_plan,
    read_plans,
    record_path,
    shard_path,
)
from ltcache.errors import CacheError
from ltcache.extract.carry_out import ExtractionOptions, carry_out
from ltcache.extract.checks import require_cache_place, require_choice, require_files
from ltcache.extract.growth import ManifestGrowth, check_sample, number_items, plan_growth
from ltcache.extract.items import ImageItems, known_items
from ltcache.extract.layers import first_fields, missing_layers
from ltcache.extract.report import ExtractionProgress, ExtractReport, StageSeconds, make_report
from ltcache.extract.shard import ShardQueue
from ltcache.extract.texts import default_prompts, encoder_state, kept_prompts
from ltcache.manifest import Manifest, read_manifest
from ltcache.process import keep_freed_memory, usable_processors
from ltcache.records import file_digest, require_equal, require_local

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
    views: Sequence[str] | None = None,
    view_seed: int | None = None,
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
    progress: Callable[[ExtractionProgress], None] | None = None,
) -> ExtractReport:
    """Encode every image of ``source`` and every class prompt into the cache ``out``.

    An interrupted extraction goes on where it stopped; a finished one is reused at once. Where
    ``source`` has changed since, only new content is encoded: relabelling, moving rows between
    splits and deleting them change the cache's manifest alone. Views and fields that a cache lacks
    are added to it (:mod:`ltcache.cache.layers`), and shards that it has lost are encoded again;
    what is there is never touched.

    Args:
        source: anything :func:`ltcache.manifest.read_manifest` takes, or a manifest.
        out: the cache's directory.
        encoder: loaded already; else ``model``, ``pretrained``, ``device``, ``precision`` and
            ``activation`` say what to load (:func:`ltcache.encoder.load_encoder`).
        root: where the images are, if not where the source says.
        views: ``flip``, ``five``, ``rrc:K`` (:mod:`ltcache.images.views`) besides ``center``, which
            every cache has; by default those it has.
        view_seed: of the random crops of ``rrc:K``; 0 for a new view.
        fields: ``embedding`` and, for towers that have it, ``pooled``; both by default, or those
            the cache has. ``tokens`` (:mod:`ltcache.encoder.rest`) only if named.
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
    keep_freed_memory()
    out = require_local(out)
    manifest = source if isinstance(source, Manifest) else read_manifest(source, root=root)
    require_choice(views or (), batch_size, shard_size)
    require_cache_place(out)
    begun = read_plan(out)
    unfinished = None if index_path(out).exists() else begun
    _set_threads(threads, begun)
    if encoder is None:
        from ltcache.encoder import load_encoder

        encoder = load_encoder(
            model, pretrained, device=device, precision=precision, activation=activation
        )
    options = ExtractionOptions(workers or usable_processors(), max_failures, progress)
    plan = Plan(
        encoder=encoder.identity,
        numerics=encoder.numerics() | {"decoder": "pillow"},
        manifest=manifest.identity(),
        views=(CENTER,),
        fields=first_fields(encoder, fields),
        items=0,
        shard_size=shard_size or (unfinished.shard_size if unfinished else SHARD_SIZE),
        micro_batch=batch_size or (unfinished.micro_batch if unfinished else _batch_size(encoder)),
    )
    if index_path(out).exists():
        wanted = ExtractRequest(plan, views, fields, view_seed, retry_failed, rehash)
        return _grow(out, wanted, manifest, encoder, options, started)
    require_files(manifest, max_failures)
    items, uris = number_items(manifest)
    plan = replace(plan, items=len(uris))
    first = first_layer(plan)
    named = [CENTER, *(views or ())]
    layers = [first, *missing_layers(encoder, [first], named, fields, view_seed)]
    _warn_of_size(layers[1:], len(uris))
    alone = claim_plan(out, plan)
    for layer in layers[1:]:
        claim_layer(out, layer)
    stages = StageSeconds()
    queue = ShardQueue(out, plan, ImageItems(0, uris), layers, manifest.root, alone, finished=False)
    encoded = carry_out(queue, encoder, stages, options)
    prompts = default_prompts(encoder, manifest)
    state = encoder_state(encoder, plan, layers)
    if index_path(out).exists():
        return _finished_by_others(out, manifest, encoded, started)
    rows = finalise(out, [plan], manifest, items, state, prompts, layers)
    return make_report(out, rows, encoded, stages.binding(), started)


def _finished_by_others(
    out: Path, manifest: Manifest, encoded: int, started: float
) -> ExtractReport:
    """Return the report of a cache that other processes finished; it is left as it is.

    Raises:
        CacheError: they have given it another list since.
    """
    cache = open_cache(out)
    _require_list(cache, manifest)
    binding = "other processes finished the cache; what they wrote was left as it is"
    return make_report(out, cache.manifest.rows, encoded, binding, started)


def _require_list(cache: Cache, *manifests: Manifest) -> None:
    """Refuse a cache that others have brought to another list than these since this call began."""
    if cache.manifest.identity() not in [manifest.identity() for manifest in manifests]:
        raise CacheError(
            f"{cache.path}: other processes finished it meanwhile and gave it another list; it was "
            "left as it is. Run the command again to bring the cache to this list"
        )


@dataclass(frozen=True)
class ExtractRequest:
    """What a call asks of a cache that is finished."""

    plan: Plan
    views: Sequence[str] | None
    fields: Sequence[str] | None
    seed: int | None
    retry_failed: bool
    rehash: bool


def _grow(
    out: Path,
    wanted: ExtractRequest,
    manifest: Manifest,
    encoder: Encoder,
    options: ExtractionOptions,
    started: float,
) -> ExtractReport:
    """Bring a finished cache to a manifest: reuse it, or encode what is new and finish again."""
    cache = Cache(out, read_index(out, check_sizes=False))  # what shards lack is encoded again
    others = {n: entry for n, entry in cache.files.items() if not n.startswith("views/")}
    check_file_sizes(out, others)
    before = file_digest(index_path(out))
    plans = read_plans(out)
    _require(out, "encoder", plans[0].encoder, wanted.plan.encoder)
    added = missing_layers(encoder, cache.layers, wanted.views, wanted.fields, wanted.seed)
    lost = _lost_shards(cache)
    same = manifest.identity() == cache.manifest.identity()
    if not wanted.rehash:
        check_sample(cache, manifest)
    retried = wanted.retry_failed and "failed" in _statuses(cache)
    if same and not (wanted.rehash or retried or added or lost):
        return make_report(out, cache.manifest.rows, 0, "reused", started)
    plan, growth = _next_plan(cache, plans, wanted, manifest, options)
    encoded, stages = 0, StageSeconds()
    if plan is not None or added or lost:
        _require(out, "numerics", plans[0].numerics, wanted.plan.numerics)
    _warn_of_size(added, len(np.unique(growth.items)))
    claims = [claim_layer(out, layer) for layer in added]
    layers = [*cache.layers, *added]
    shards = lost | _used_shards(cache, plans, growth) if added else lost
    for queue in _fill(cache, plans, growth, manifest, layers, shards, all(claims)):
        encoded += carry_out(queue, encoder, stages, options)
    if plan is not None:
        alone = claim_plan(out, plan)
        queue = ShardQueue(
            out, plan, ImageItems(plan.first_item, growth.uris), layers, manifest.root, alone
        )
        encoded += carry_out(queue, encoder, stages, options)
        plans = [*plans[: plan.number - 1], plan]
    prompts = kept_prompts(cache, manifest) or default_prompts(encoder, manifest)
    if file_digest(index_path(out)) != before:  # another process was quicker with the same
        _require_list(Cache(out, read_index(out, check_sizes=False)), manifest, cache.manifest)
        report = _grow(out, wanted, manifest, encoder, options, started)
        return replace(report, encoded=report.encoded + encoded)
    state = encoder_state(encoder, plans[0], layers)
    rows = finalise(out, plans, manifest, growth.items, state, prompts, layers)
    return make_report(out, rows, encoded, stages.binding() if encoded else "known images", started)


def _lost_shards(cache: Cache) -> set[int]:
    """Return shards of the index whose features or record are not there, in some layer."""
    lost = set()
    for layer in cache.layers:
        for shard in cache.shards(layer.name):
            for path in (shard_path, record_path):
                place = path(cache.path, layer.folder, shard)
                size = cache.files[place.relative_to(cache.path).as_posix()]["bytes"]
                if not place.exists() or place.stat().st_size != size:
                    lost.add(shard)
    return lost


def _used_shards(cache: Cache, plans: Sequence[Plan], growth: ManifestGrowth) -> set[int]:
    """Return the shards that are in the index, and those that hold a row's item besides.

    Those are known by their content, from an extension that was given up.
    """
    used = set(cache.shards(CENTER))
    for plan in plans:
        mine = growth.items[(growth.items >= plan.first_item) & (growth.items < plan.end)]
        numbers = np.unique((mine - plan.first_item) // plan.shard_size) + plan.first_shard
        used |= set(numbers.tolist())
    return used


def _fill(
    cache: Cache,
    plans: Sequence[Plan],
    growth: ManifestGrowth,
    manifest: Manifest,
    layers: Sequence[Layer],
    shards: set[int],
    alone: bool,
) -> Iterator[ShardQueue]:
    """Yield, plan by plan, what these shards lack in some layer."""
    for plan in plans:
        if mine := shards & set(plan.shards):
            items = known_items(cache, plan, growth.items, manifest.rows["uri"])
            yield ShardQueue(cache.path, plan, items, layers, manifest.root, alone, mine)


def _warn_of_size(layers: Sequence[Layer], images: int) -> None:
    """Say before the work what tokens are going to take."""
    for layer in layers:
        for shape in (dims_of(shape) for shape in layer.fields.values() if dims_of(shape)[1:]):
            size = images * layer.crops * int(np.prod(shape)) * 2
            warnings.warn(
                f"{layer.folder}: {images} images x {layer.crops} crops x {shape[0]} x {shape[1]} "
                f"values in float16 take {size / 1e9:.2f} GB on disk",
                stacklevel=3,
            )


def _next_plan(
    cache: Cache,
    plans: list[Plan],
    wanted: ExtractRequest,
    manifest: Manifest,
    options: ExtractionOptions,
) -> tuple[Plan | None, ManifestGrowth]:
    """Return the plan of what is new, or None where nothing is.

    An extension that was interrupted is continued if it is the same; else its committed shards
    count as known content, and a new plan numbers on behind it.
    """

    def compare(known: list[Plan]) -> ManifestGrowth:
        return plan_growth(
            cache, known, manifest, retry_failed=wanted.retry_failed, rehash=wanted.rehash,
            workers=options.workers,
        )  # fmt: skip

    last = plans[-1]
    if len(plans) > 1 and not set(last.shards) <= set(cache.shards(CENTER)):
        growth = compare(plans[:-1])
        if growth.images == last.images:
            return last, growth
    growth = compare(plans)
    if not len(growth.uris):
        return None, growth
    plan = replace(
        plans[0],
        manifest=wanted.plan.manifest,
        items=len(growth.uris),
        first_item=last.end,
        first_shard=last.shards.stop,
        images=growth.images,
        number=last.number + 1,
    )
    return plan, growth


def _require(out: Path, kind: str, expected: Any, found: Any) -> None:
    remedy = f"{out} is finished and was made with the expected values: choose another --out"
    require_equal(kind, expected, found, remedy=remedy)


def _statuses(cache: Cache) -> list[str]:
    statuses: list[str] = cache.manifest.rows["status"].unique().to_pylist()
    return statuses


def _batch_size(encoder: Encoder) -> int:
    """On a CPU few: where activations outgrow what malloc keeps, page faults double the time."""
    return 256 if str(encoder.device).startswith("cuda") else 16


def _set_threads(threads: int | None, begun: Plan | None) -> None:
    """Set the compute threads: as asked, or as the cache was begun with; else torch's default."""
    import torch

    wanted = threads or (begun.numerics.get("threads") if begun else None)
    if wanted:
        torch.set_num_threads(int(wanted))
