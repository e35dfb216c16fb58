"""Views of a cache as settings to try: which crops to train on, and which to predict on."""

from __future__ import annotations

from ltcache.cache import Cache
from ltcache.errors import FitError
from ltcache.images import is_composite
from ltcache.methods import Method


def view_space(cache: Cache, method: Method) -> dict[str, tuple[str, ...]]:
    """Return ``feature.view`` and ``feature.eval_view`` with the views to try, the method's first.

    Random crops only train; composites are no rows by themselves. A key with nothing else to try is
    left out, so that a cache that has only ``center`` adds nothing to a search, and so does a
    method whose own views or features the cache lacks: its run says so.
    """
    feature = method.feature
    if not {feature.view, feature.eval_view} <= set(cache.views):
        return {}
    try:
        field = feature.resolve(cache.field_dims(feature.view))
    except FitError:
        return {}
    views = [
        view for view in cache.views if field in cache.field_dims(view) and not is_composite(view)
    ]
    fixed = [view for view in views if not _is_random(cache, view)]
    found = {
        "feature.view": _beginning_with(feature.view, views),
        "feature.eval_view": _beginning_with(feature.eval_view, fixed),
    }
    return {key: values for key, values in found.items() if len(values) > 1}


def absent_views(cache: Cache) -> tuple[str, ...]:
    """Return views worth extracting: random crops to train on, several crops to predict on.

    Features that were imported cannot be extracted again, so that none is named for them.
    """
    if cache.imported:
        return ()
    trained = any(_is_random(cache, view) for view in cache.views)
    others = [v for v in cache.views if not (_is_random(cache, v) or is_composite(v))]
    judged = any(cache.crops(view) > 1 for view in others)
    return (*(() if judged else ("five",)), *(() if trained else ("rrc:4",)))


def _is_random(cache: Cache, view: str) -> bool:
    return "seed" in cache.identities(view)["view"] and not is_composite(view)


def _beginning_with(first: str, views: list[str]) -> tuple[str, ...]:
    return (first, *(view for view in views if view != first))
