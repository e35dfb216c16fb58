"""Extraction to an address: a new cache is made there, and a finished one is reused."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar, cast

from ltcache.cache import open_cache, staged_at, staging_folder
from ltcache.errors import UsageError
from ltcache.extract.kept_splits import undivided
from ltcache.extract.layers import missing_layers
from ltcache.extract.report import ExtractReport, make_report
from ltcache.extract.request import ExtractRequest
from ltcache.images import is_composite
from ltcache.records import address_of, differences

F = TypeVar("F", bound=Callable[..., ExtractReport])
_INSTEAD = (
    "a cache at an address is made once and then only read: extract into a folder, or into one "
    "that ltcache copy has fetched, and copy that to an address where nothing is"
)


def to_address(extract: F) -> F:
    """Return :func:`ltcache.extract.extract` with addresses as ``out``.

    Raises:
        UsageError: what is asked for is done to a finished cache, or the address is only read.
    """

    @functools.wraps(extract)
    def extracted(source: Any, out: Any, **options: Any) -> ExtractReport:
        address = address_of(out)
        if address is None:
            return extract(source, out, **options)
        views = options.get("views") or ()
        if options.get("splitting") or any(is_composite(view.strip()) for view in views):
            raise UsageError(f"{address}: splits and composites come last, and {_INSTEAD}")
        with staging_folder(address) as folder:
            return replace(extract(source, folder, **options), path=address)

    return cast(F, extracted)


def reuse(request: ExtractRequest) -> ExtractReport:
    """Return the report of a finished cache at an address that is what is asked for.

    Raises:
        UsageError: it is another one.
    """
    cache, store = open_cache(request.out), staged_at(request.out)
    lists = [undivided(manifest, cache) for manifest in (cache.manifest, request.manifest)]
    differs = {
        "encoder": differences(cache.encoder, request.plan.encoder),
        "list of images": lists[0].identity() != lists[1].identity(),
        "views or fields": missing_layers(
            request.encoder, cache.layers, request.views, request.fields, request.view_seed
        ),
        "--retry-failed or --rehash": request.retry_failed or request.rehash,
    }
    if said := [name for name, found in differs.items() if found]:
        raise UsageError(
            f"{store and store.address}: a finished cache is there and would have to change "
            f"({', '.join(said)}); {_INSTEAD}"
        )
    return make_report(cache, 0, "reused", request.started)
