"""Decoding equals open_clip's own transform; broken images name their defect."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ltcache.errors import ImageError, ManifestError
from ltcache.images import Preprocessing, decode, open_store

MEAN, STD = (0.48, 0.45, 0.40), (0.26, 0.27, 0.28)


def png(image: Image.Image, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@settings(max_examples=60)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    mode=st.sampled_from(["RGB", "L", "P", "RGBA", "LA", "1", "CMYK"]),
    size=st.sampled_from([(32, 32), (24, 40), (17, 17)]),
    resize_mode=st.sampled_from(["shortest", "longest", "squash"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    fill_color=st.sampled_from([0, 7]),
)
def test_pixels_equal_open_clip(
    width, height, mode, size, resize_mode, interpolation, fill_color
) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    data = png(noise(width, height, mode), "TIFF" if mode == "CMYK" else "PNG")
    cfg = PreprocessCfg(size, "RGB", MEAN, STD, interpolation, resize_mode, fill_color)
    try:
        expected = image_transform_v2(cfg, is_train=False)(Image.open(io.BytesIO(data)))
    except (ValueError, TypeError):  # open_clip cannot do it either (an edge of 0 pixels, a fill)
        return
    ours = Preprocessing.from_dict(vars(cfg))
    pixels = torch.from_numpy(decode(data, ours).pixels.copy())[None]
    assert torch.equal(ours.normalise(pixels)[0], expected)


@settings(max_examples=60)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    mode=st.sampled_from(["RGB", "L", "P", "RGBA", "LA", "1", "CMYK"]),
    size=st.sampled_from([(32, 32), (24, 40), (17, 17)]),
    crop_mode=st.sampled_from(["center", "squash"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    crop_pct=st.sampled_from([0.5, 0.875, 0.9, 0.95, 1.0]),
)
def test_pixels_equal_timm(width, height, mode, size, crop_mode, interpolation, crop_pct) -> None:
    from timm.data.transforms_factory import transforms_imagenet_eval

    data = png(noise(width, height, mode), "TIFF" if mode == "CMYK" else "PNG")
    transform = transforms_imagenet_eval(size, crop_pct, crop_mode, None, interpolation, MEAN, STD)
    try:  # timm's data sets bring images to RGB before the transform
        expected = transform(Image.open(io.BytesIO(data)).convert("RGB"))
    except ValueError:  # an edge of 0 pixels
        return
    resize_mode = {"center": "shortest", "squash": "squash"}[crop_mode]
    ours = Preprocessing(size, MEAN, STD, interpolation, resize_mode, crop_pct=crop_pct)
    pixels = torch.from_numpy(decode(data, ours).pixels.copy())[None]
    assert torch.equal(ours.normalise(pixels)[0], expected)


def test_round_trip_through_json() -> None:
    value = Preprocessing((32, 24), MEAN, STD, "bilinear", "longest", 3)
    assert Preprocessing.from_dict(value.to_dict()) == value
    assert "crop_pct" not in value.to_dict()  # identities are what they were
    value = Preprocessing((32, 24), MEAN, STD, "bilinear", crop_pct=0.95)
    assert Preprocessing.from_dict(value.to_dict()) == value
    assert Preprocessing.from_dict({**value.to_dict(), "size": 32}).size == (32, 32)


@pytest.mark.parametrize("field", ["interpolation", "resize_mode"])
def test_unknown_settings_are_refused(field: str) -> None:
    with pytest.raises(ImageError, match="lanczos"):
        Preprocessing.from_dict({"size": 8, "mean": MEAN, "std": STD, field: "lanczos"})


@pytest.mark.parametrize(
    "given", [{"crop_pct": 0.0}, {"crop_pct": 1.5}, {"crop_pct": 0.9, "resize_mode": "longest"}]
)
def test_crops_that_cannot_be_are_refused(given: dict) -> None:
    with pytest.raises(ImageError, match="crop_pct"):
        Preprocessing.from_dict({"size": 8, "mean": MEAN, "std": STD, **given})


SQUARE = Preprocessing((16, 16), MEAN, STD)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "0 bytes"),
        (b"hello, I am a text", "not an image"),
        (png(noise(64, 64), "JPEG")[:-400], "truncated"),
        (png(noise(64, 64))[:60], "Error"),
    ],
)
def test_broken_images_are_image_errors(data: bytes, text: str) -> None:
    with pytest.raises(ImageError, match=text) as caught:
        decode(data, SQUARE)
    assert " at 0x" not in str(caught.value)


def test_no_image_has_pillow_start_a_program() -> None:
    """What .eps needs, Ghostscript, runs PostScript: a file's bytes would be a program."""
    sink = io.BytesIO()
    Image.new("RGB", (8, 8)).save(sink, "EPS")
    Image.open(io.BytesIO(sink.getvalue())).close()  # Pillow itself takes it
    with pytest.raises(ImageError, match="not an image that Pillow knows"):
        decode(sink.getvalue(), Preprocessing((8, 8), (0, 0, 0), (1, 1, 1)))


def test_a_bomb_is_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ltcache.images.decoding.MAX_PIXELS", 100)
    with pytest.raises(ImageError, match="20 x 20 pixels"):
        decode(png(noise(20, 20)), SQUARE)


def test_stores_agree_and_stay_inside_their_root(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "ü.png").write_bytes(b"pixels")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("a b/ü.png", b"pixels")
    for store in (open_store(tmp_path), open_store(tmp_path / "all.zip")):
        assert store.read("a b/ü.png") == b"pixels"
        for bad in ("missing.png", "../secret", "/etc/hostname", "a b"):
            with pytest.raises(ImageError):
                store.read(bad)


def test_a_root_must_exist(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("no zip")
    for root in (None, tmp_path / "none", tmp_path / "list.txt"):
        with pytest.raises(ManifestError):
            open_store(root)
