"""Whether methods leave random crops of a cache unused that they could train on."""

from __future__ import annotations

from collections.abc import Sequence

from ltcache.methods import FeatureSpec, Method

RANDOM_CROPS = "rrc"
"""Beginning of the names of views of random crops, such as ``rrc:4``."""


def unused_random_crops(views: Sequence[str], methods: Sequence[Method]) -> str | None:
    """Return in words which methods train on one crop of each image where a cache has random ones.

    Args:
        views: names of those in the cache.
    """
    random = [view for view in views if view.startswith(RANDOM_CROPS)]
    names = dict.fromkeys(method.name for method in methods if _trains_on_one_crop(method))
    if not random or not names:
        return None
    return (
        f"{', '.join(names)}: trained on view {FeatureSpec.view}; the cache has random crops, too: "
        f"-s feature.view={random[-1]}"
    )


def _trains_on_one_crop(method: Method) -> bool:
    return method.feature.view == FeatureSpec.view and any(stage.trains for stage in method.stages)
