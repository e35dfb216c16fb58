"""Views of composites: made last, of training images that the cache is known to have.

Which image is pasted where follows from the list of labelled training rows whose features exist, so
a view of composites is added to a finished cache, whatever was asked for at once; and a cache that
has one keeps its training rows: with others the same draws would mean other images and labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow.compute as pc

from ltcache.cache import index_path, open_cache, staged_at
from ltcache.errors import UsageError
from ltcache.extract.at_address import reuse
from ltcache.extract.begin import begin
from ltcache.extract.grow import grow
from ltcache.extract.kept_splits import keep_splits
from ltcache.extract.report import ExtractReport
from ltcache.extract.request import ExtractRequest
from ltcache.extract.splitting import SplitReport, assign_waiting, split_cache
from ltcache.images import is_composite


def begin_or_grow(request: ExtractRequest) -> ExtractReport:
    """Bring a cache to the list, to its splits and to all other views, then to composites.

    Raises:
        UsageError: composites of a list that has no labelled training rows.
    """
    named = [name.strip() for name in request.views or ()]
    last = [name for name in named if is_composite(name)]
    if not last:
        return _divided(request, _first(request))
    _require_training_rows(request, last)
    before = _first(replace(request, views=[name for name in named if name not in last]))
    before = _divided(request, before)
    manifest = keep_splits(open_cache(request.out), request.manifest)
    report = grow(replace(request, manifest=manifest, views=last, retry_failed=False, rehash=False))
    binding = report.binding if report.encoded else before.binding
    encoded = before.encoded + report.encoded
    turned = max(before.turned, report.turned)  # the same images, decoded again
    return replace(report, encoded=encoded, binding=binding, split=before.split, turned=turned)


def _divided(request: ExtractRequest, report: ExtractReport) -> ExtractReport:
    """Divide the images of a cache as is asked for, or those that came later as the others were."""
    made: SplitReport | None
    if request.splitting is not None:
        made = split_cache(request.out, request.splitting)
    else:
        made = assign_waiting(open_cache(request.out))
    if made is None:
        return report
    return replace(report, split=made, shared=open_cache(request.out).shared_content)


def _first(request: ExtractRequest) -> ExtractReport:
    if not index_path(request.out).exists():
        return begin(request)
    return grow(request) if staged_at(request.out) is None else reuse(request)


def _require_training_rows(request: ExtractRequest, views: Sequence[str]) -> None:
    rows = request.manifest.rows
    labelled = pc.and_(pc.equal(rows["split"], "train"), pc.greater_equal(rows["label"], 0))
    if not pc.any(labelled).as_py():
        raise UsageError(
            f"{', '.join(views)} is made of labelled images of the split train, and there are "
            "none in the list: leave it out of --views"
        )
