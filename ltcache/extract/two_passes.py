"""Views of composites: made last, of training images that the cache is known to have.

Which image is pasted where follows from the list of labelled training rows whose features exist, so
a view of composites is added to a finished cache, whatever was asked for at once; and a cache that
has one keeps its training rows: with others the same draws would mean other images and labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow.compute as pc

from ltcache.cache import index_path
from ltcache.errors import UsageError
from ltcache.extract.begin import begin
from ltcache.extract.grow import grow
from ltcache.extract.report import ExtractReport
from ltcache.extract.request import ExtractRequest
from ltcache.images import is_composite


def begin_or_grow(request: ExtractRequest) -> ExtractReport:
    """Bring a cache to the list and to all other views that are asked for, then to composites.

    Raises:
        UsageError: composites of a list that has no labelled training rows.
    """
    named = [name.strip() for name in request.views or ()]
    last = [name for name in named if is_composite(name)]
    if not last:
        return _first(request)
    _require_training_rows(request, last)
    before = _first(replace(request, views=[name for name in named if name not in last]))
    report = grow(replace(request, views=last, retry_failed=False, rehash=False))
    binding = report.binding if report.encoded else before.binding
    return replace(report, encoded=before.encoded + report.encoded, binding=binding)


def _first(request: ExtractRequest) -> ExtractReport:
    return grow(request) if index_path(request.out).exists() else begin(request)


def _require_training_rows(request: ExtractRequest, views: Sequence[str]) -> None:
    rows = request.manifest.rows
    labelled = pc.and_(pc.equal(rows["split"], "train"), pc.greater_equal(rows["label"], 0))
    if not pc.any(labelled).as_py():
        raise UsageError(
            f"{', '.join(views)} is made of labelled images of the split train, and there are "
            "none in the list: leave it out of --views"
        )
