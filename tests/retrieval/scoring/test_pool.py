"""A pool says which bytes its embeddings are, whatever its view is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltcache.cache import open_cache
from ltcache.encoder import load_encoder
from ltcache.errors import CacheError
from ltcache.extract import extract
from ltcache.retrieval.scoring.pool import CachedPool
from tests.class_folders import write_images


@pytest.mark.parametrize("view", ["center", "rrc:2"])
def test_the_identity_of_a_pool_follows_the_bytes_of_its_view(
    view: str, tiny_clip: Path, tmp_path: Path
) -> None:
    images = write_images(tmp_path / "images", {"fox": 4, "jay": 2})
    encoder = load_encoder(f"local-dir:{tiny_clip}")
    for seed in (0, 1):
        views, out = ("rrc:2", "cmo:2"), tmp_path / f"c{seed}"
        extract(images, out, encoder=encoder, views=views, view_seed=seed)
    a, b = (CachedPool(open_cache(tmp_path / f"c{seed}"), view).identity() for seed in (0, 1))
    assert (a["shards"] == b["shards"]) == (view == "center")
    assert a | {"shards": ""} == b | {"shards": ""}
    with pytest.raises(CacheError, match="cmo:2 is a view of composites"):
        CachedPool(open_cache(tmp_path / "c0"), "cmo:2")
