"""Bringing a finished cache to a manifest, to more views and to more fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ltcache.cache import (
    CENTER,
    Cache,
    Layer,
    Plan,
    check_file_sizes,
    claim_layer,
    claim_plan,
    finalise,
    index_path,
    open_cache,
    read_index,
    read_plans,
    record_path,
    shard_path,
)
from ltcache.extract.carry_out import carry_out
from ltcache.extract.composites import composed_of, require_training_rows
from ltcache.extract.finish_only import require_begun
from ltcache.extract.growth import ManifestGrowth, check_sample, plan_growth
from ltcache.extract.items import ImageItems, known_items
from ltcache.extract.kept_splits import keep_splits_of_items
from ltcache.extract.layers import missing_layers
from ltcache.extract.report import ExtractionTally, ExtractReport, make_report
from ltcache.extract.request import ExtractRequest, require_list, warn_of_size
from ltcache.extract.shard import ShardQueue
from ltcache.extract.texts import encoder_state, prompts_after
from ltcache.manifest import Manifest
from ltcache.records import file_digest, remove_leftovers, require_equal


def grow(request: ExtractRequest) -> ExtractReport:
    """Reuse a finished cache as it is, or encode what it lacks and finish it again."""
    out, manifest, encoder = request.out, request.manifest, request.encoder
    cache = Cache(out, read_index(out, check_sizes=False))  # what shards lack is encoded again
    others = {n: entry for n, entry in cache.files.items() if not n.startswith("views/")}
    check_file_sizes(out, others)
    before = file_digest(index_path(out))
    plans = read_plans(out)
    _require(out, "encoder", plans[0].encoder, request.plan.encoder)
    partners = composed_of(cache, request.views)
    added = missing_layers(
        encoder, cache.layers, request.views, request.fields, request.view_seed,
        "" if partners is None else partners.digest,
    )  # fmt: skip
    lost = _lost_shards(cache)
    if not request.rehash:
        check_sample(cache, manifest)
    if not (added or lost or _rows_change(cache, request)):
        remove_leftovers(out)  # of a process that was killed right after it created the index
        return make_report(cache, 0, "reused", request.started)
    plan, growth = _next_plan(cache, plans, request)
    manifest = keep_splits_of_items(cache, manifest, growth.items)
    if partners is not None:
        require_training_rows(cache, manifest, growth.items)
    if plan is not None or added or lost:
        _require(out, "numerics", plans[0].numerics, request.plan.numerics)
    if request.finish_only:
        require_begun(out, plan, added)
    warn_of_size(added, len(np.unique(growth.items)))
    claims = [claim_layer(out, layer) for layer in added]
    layers, tally = [*cache.layers, *added], ExtractionTally()
    shards = lost | _used_shards(cache, plans, growth) if added else lost
    queues = _fill(cache, plans, growth, manifest, layers, shards, all(claims))
    encoded = sum(carry_out(replace(q, partners=partners), request, tally) for q in queues)
    if plan is not None:
        alone, items = claim_plan(out, plan), ImageItems(plan.first_item, growth.uris)
        queue = ShardQueue(out, plan, items, layers, manifest.root, alone, partners=partners)
        encoded += carry_out(queue, request, tally)
        plans = [*plans[: plan.number - 1], plan]
    prompts = prompts_after(cache, manifest, encoder)
    if file_digest(index_path(out)) != before:  # another process was quicker with the same
        require_list(Cache(out, read_index(out, check_sizes=False)), manifest, cache.manifest)
        report = grow(request)
        turned = report.turned + tally.turned
        return replace(report, encoded=report.encoded + encoded, turned=turned)
    state = encoder_state(encoder, plans[0], layers)
    finalise(out, plans, manifest, growth.items, state, prompts, layers, again=True)
    binding = tally.binding() if encoded else "known images"
    return make_report(open_cache(out), encoded, binding, request.started, tally.turned)


def _rows_change(cache: Cache, request: ExtractRequest) -> bool:
    """Whether the list is another one, or images are to be looked at or tried again."""
    if request.manifest.identity() != cache.list_identity() or request.rehash:
        return True
    return request.retry_failed and "failed" in cache.table("status")["status"].unique().to_pylist()


def _lost_shards(cache: Cache) -> set[int]:
    """Return shards of the index whose features or record are not there, in some layer."""
    lost, files = set(), cache.files
    for layer in cache.layers:
        for shard in cache.shards(layer.name):
            for path in (shard_path, record_path):
                place = path(cache.path, layer.folder, shard)
                size = files[place.relative_to(cache.path).as_posix()]["bytes"]
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


def _next_plan(
    cache: Cache,
    plans: list[Plan],
    request: ExtractRequest,
) -> tuple[Plan | None, ManifestGrowth]:
    """Return the plan of what is new, or None where nothing is.

    An extension that was interrupted is continued if it is the same; else its committed shards
    count as known content, and a new plan numbers on behind it.
    """

    def compare(known: list[Plan]) -> ManifestGrowth:
        return plan_growth(
            cache, known, request.manifest, retry_failed=request.retry_failed,
            rehash=request.rehash, workers=request.workers,
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
        manifest=request.plan.manifest,
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
