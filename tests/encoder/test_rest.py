"""Tokens and the rest of the tower: together they are the tower, from a cache alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ltcache.cache import open_cache
from ltcache.cache.verify import verify_files
from ltcache.encoder import Encoder, build_rest, load_encoder
from ltcache.errors import CacheError, EncoderError
from ltcache.extract import extract
from tests.conftest import write_images
from tests.encoder.tiny_models import build, tiny_config, write_folder, write_tiny_clip

SHAPES = {"vit": (17, 32), "resnet": (1, 256), "timm": (1, 64)}
EDGES = {"vit": 32, "resnet": 96, "timm": 96}


def encoder_of(kind: str, folder: Path) -> Encoder:
    if kind == "embedded":
        return load_encoder()
    return load_encoder(f"local-dir:{write_tiny_clip(folder, kind=kind, image_size=EDGES[kind])}")


@pytest.mark.parametrize("kind", ["embedded", "vit", "resnet", "timm"])
def test_the_rest_of_cached_tokens_is_the_cached_embedding(kind: str, tmp_path: Path) -> None:
    encoder = encoder_of(kind, tmp_path / "model")
    assert encoder.token_shape is not None
    images = write_images(tmp_path / "images", {"a": 4, "b": 3}, size=EDGES.get(kind, 96) + 9)
    out = tmp_path / "cache"
    with pytest.warns(UserWarning, match="in float16 take"):
        extract(images, out, encoder=encoder, fields=("tokens",), shard_size=4, views=("flip",))
    cache = open_cache(out)
    assert cache.field_shapes()["tokens"] == encoder.token_shape
    rest = build_rest(cache.encoder, cache.rest())
    assert not any(parameter.requires_grad for parameter in rest.parameters())
    for view in ("center", "flip"):
        tokens = cache.features(field="tokens", view=view)
        assert tokens.shape == (7, 1, *encoder.token_shape)
        with torch.inference_mode():
            found = rest(torch.from_numpy(tokens[:, 0])).numpy()
        expected = cache.features(view=view)[:, 0]
        assert np.abs(found - expected).max() < 4e-3 * np.abs(expected).max()
    assert verify_files(out).ok
    # far less than the tower
    size = sum(array.nbytes for array in cache.rest().values())
    whole = sum(p.numel() * 4 for p in encoder.model.visual.parameters())
    assert size < (0.75 if kind in ("vit", "resnet") else 0.5) * whole


def test_tokens_change_no_bit_of_the_other_fields_and_come_only_when_asked(tmp_path: Path) -> None:
    encoder = encoder_of("vit", tmp_path / "model")
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    plain = encoder.encode_images(pixels)
    assert set(plain) == {"embedding", "pooled"}
    more = encoder.encode_images(pixels, ("tokens", "embedding", "pooled"))
    assert all(torch.equal(plain[name], more[name]) for name in plain)
    assert more["tokens"].shape == (3, 17, 32)
    assert "tokens" not in encoder.identity["dims"]


def test_gradients_reach_the_tokens_and_the_patches_matter(tmp_path: Path) -> None:
    encoder = encoder_of("vit", tmp_path / "model")
    rest = build_rest(encoder.identity, encoder.rest())
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    tokens = encoder.encode_images(pixels, ("tokens",))["tokens"].requires_grad_()
    rest(tokens).square().sum().backward()
    assert tokens.grad is not None
    assert (tokens.grad[:, 1:].abs().sum(dim=(1, 2)) > 0).all()


@pytest.mark.parametrize("options", [{"quick_gelu": True}, {"pool": "avg"}, {"after": True}])
def test_variants_of_the_vit(options: dict[str, Any], tmp_path: Path) -> None:
    config = tiny_config(quick_gelu=options.get("quick_gelu", False))
    if "pool" in options:
        config["vision_cfg"]["pool_type"] = "avg"
    if "after" in options:
        config["vision_cfg"]["final_ln_after_pool"] = True
    encoder = load_encoder(f"local-dir:{write_folder(tmp_path / 'm', config, build(config))}")
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    found = encoder.encode_images(pixels, ("tokens", "embedding"))
    rest = build_rest(encoder.identity, encoder.rest())
    with torch.inference_mode():
        assert torch.allclose(rest(found["tokens"]), found["embedding"], atol=1e-4)


def test_what_is_no_rest_is_refused(tmp_path: Path) -> None:
    vit, resnet = (encoder_of(kind, tmp_path / kind) for kind in ("vit", "resnet"))
    with pytest.raises(EncoderError, match="does not fit"):
        build_rest(vit.identity, resnet.rest())
    with pytest.raises(EncoderError, match="does not fit"):
        build_rest(vit.identity, {})
    images = write_images(tmp_path / "images", {"a": 2})
    extract(images, tmp_path / "cache", encoder=vit)
    with pytest.raises(CacheError, match="--fields tokens"):
        open_cache(tmp_path / "cache").rest()
