"""What a cache holds is what open_clip computes, image by image, up to the storage in float16."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from ltcache.cache import open_cache
from ltcache.embedded import encoder_path
from ltcache.encoder import load_encoder
from ltcache.extract import extract
from ltcache.images import open_store
from ltcache.manifest import Manifest, read_manifest


@pytest.fixture(scope="module")
def some_emoji() -> Manifest:
    """Return 12 real images of Emoji-LT, of several vendors, read from the packaged archive."""
    manifest = read_manifest("emoji_lt")
    chosen = np.linspace(0, len(manifest) - 1, 12).astype(int)
    rows = manifest.rows.take(chosen)
    index = rows.column_names.index("row_id")
    rows = rows.set_column(index, "row_id", [np.arange(len(chosen))])
    return replace(manifest, rows=rows, templates=("{}",), descriptions=None)


def plain(model: str, seed: int | None) -> tuple[torch.nn.Module, object]:
    """Build a model and its transform by open_clip alone."""
    if seed is not None:
        torch.manual_seed(seed)
    built, _, transform = open_clip.create_model_and_transforms(model)
    return built.eval(), transform


@pytest.mark.parametrize("name", ["embedded", "ViT-B-32", "RN50"])
@pytest.mark.slow
def test_cached_embeddings_are_open_clips(name: str, some_emoji: Manifest, tmp_path: Path) -> None:
    pretrained = None if name == "embedded" else "random:0"
    encoder = load_encoder(name, pretrained)
    extract(some_emoji, tmp_path / "cache", encoder=encoder, batch_size=5)
    cache = open_cache(tmp_path / "cache")
    found = cache.features(field="embedding")[:, 0]

    if name == "embedded":
        model, transform = plain(f"local-dir:{encoder_path()}", None)
    else:  # the same random weights in a model that open_clip built, with its own transform
        model, transform = plain(name, None)
        model.load_state_dict(encoder.model.state_dict())
    store = open_store(some_emoji.root)
    with torch.inference_mode():
        expected = torch.cat(
            [
                model.encode_image(transform(Image.open(io.BytesIO(store.read(uri))))[None])
                for uri in some_emoji.rows["uri"].to_pylist()
            ]
        ).numpy()
    rounding = np.abs(expected) * 2.0**-11 + 2.0**-24
    between_batches = 2e-5 * np.abs(expected).max()
    assert (np.abs(found - expected) <= rounding + between_batches).all()

    if name == "RN50":  # its projection is inside the attention pool
        assert cache.field_dims() == {"embedding": 1024}
        assert cache.projection is None
        return
    assert cache.projection is not None
    pooled = cache.features(field="pooled")[:, 0]
    product = pooled @ cache.projection
    error = np.abs(pooled) @ np.abs(cache.projection) * 2.0**-11
    assert (np.abs(product - expected) <= error + between_batches).all()
