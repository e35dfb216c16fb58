"""Beginning a cache, or going on with one that is not finished."""

from __future__ import annotations

from dataclasses import replace

from ltcache.cache import (
    CENTER,
    claim_layer,
    claim_plan,
    finalise,
    first_layer,
    index_path,
    open_cache,
)
from ltcache.extract.carry_out import carry_out
from ltcache.extract.checks import require_files
from ltcache.extract.finish_only import require_begun
from ltcache.extract.growth import number_items
from ltcache.extract.items import ImageItems
from ltcache.extract.layers import missing_layers
from ltcache.extract.report import ExtractionTally, ExtractReport, make_report
from ltcache.extract.request import ExtractRequest, require_list, warn_of_size
from ltcache.extract.shard import ShardQueue
from ltcache.extract.texts import default_prompts, encoder_state
from ltcache.records import at_work, wait_for_others


def begin(request: ExtractRequest) -> ExtractReport:
    """Encode every image of a manifest into a cache that is not finished, and finish it."""
    out, manifest, encoder = request.out, request.manifest, request.encoder
    if not request.finish_only:
        require_files(manifest, request.max_failures)
    items, uris = number_items(manifest)
    plan = replace(request.plan, items=len(uris))
    first = first_layer(plan)
    named = [CENTER, *(request.views or ())]
    added = missing_layers(encoder, [first], named, request.fields, request.view_seed)
    if request.finish_only:
        require_begun(out, plan, added)
    else:
        warn_of_size(added, len(uris))
    alone = claim_plan(out, plan)
    for layer in added:
        claim_layer(out, layer)
    layers, tally = [first, *added], ExtractionTally()
    queue = ShardQueue(out, plan, ImageItems(0, uris), layers, manifest.root, alone, finished=False)
    encoded = carry_out(queue, request, tally)
    index = index_path(out)
    if wait_for_others(index, index.exists):  # of a long list it takes minutes, and gigabytes
        return _finished_by_others(request, encoded, tally.turned)
    with at_work(index):
        prompts = default_prompts(encoder, manifest)
        state = encoder_state(encoder, plan, layers)
        mine = finalise(out, [plan], manifest, items, state, prompts, layers)
    if not mine:
        return _finished_by_others(request, encoded, tally.turned)
    return make_report(open_cache(out), encoded, tally.binding(), request.started, tally.turned)


def _finished_by_others(request: ExtractRequest, encoded: int, turned: int) -> ExtractReport:
    """Return the report of a cache that other processes finished; it is left as it is.

    Raises:
        CacheError: they have given it another list since.
    """
    cache = open_cache(request.out)
    require_list(cache, request.manifest)
    binding = "other processes finished the cache; what they wrote was left as it is"
    return make_report(cache, encoded, binding, request.started, turned)
