"""What a cache holds is what open_clip computes, image by image, up to the storage in float16."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
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


@pytest.mark.parametrize("name", ["embedded", "ViT-B-32", "RN50"])
@pytest.mark.slow
def test_cached_embeddings_are_open_clips(name: str, some_emoji: Manifest, tmp_path: Path) -> None:
    pretrained = None if name == "embedded" else "random:0"
    encoder = load_encoder(name, pretrained)
    extract(some_emoji, tmp_path / "cache", encoder=encoder, batch_size=5)
    cache = open_cache(tmp_path / "cache")
    found = cache.features(field="embedding")[:, 0]

    if name == "embedded":
        model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{encoder_path()}")
    else:  # that this is the model which open_clip builds is seen in tests/encoder/test_exactness
        model = encoder.model
        config = PreprocessCfg(**open_clip.get_model_preprocess_cfg(model))
        transform = image_transform_v2(config, is_train=False)
    model.eval()
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
