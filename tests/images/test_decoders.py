"""Decoders beside Pillow: how far their pixels are from its own, and where they are refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from ltcache.cache import open_cache, read_plan
from ltcache.encoder import load_encoder
from ltcache.errors import IdentityError, ImageError, UsageError
from ltcache.extract import extract
from ltcache.images import (
    DECODERS,
    DecoderRecipe,
    Preprocessing,
    View,
    decode,
    decode_views,
    require_decoder,
    start_of_thread,
)
from ltcache.images.decoding import opened
from tests.conftest import Call

HOW = Preprocessing((64, 64), (0, 0, 0), (1, 1, 1))


def photograph(mode: str = "RGB", form: str = "JPEG", **options: Any) -> bytes:
    """Return a file of smooth shapes with texture, 140 x 100 pixels."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((140, 100), Image.Resampling.BICUBIC))
    pixels = np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(sink, form, **options)
    return sink.getvalue()


def whole(data: bytes, decoder: str) -> np.ndarray:
    """Return the pixels of a file, before anything is resized."""
    with opened(data) as image:
        return np.asarray(DECODERS[decoder](image, data)).astype(int)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}])
def test_pixels_of_jpeg_files_are_near(mode: str, options: dict[str, Any]) -> None:
    data = photograph(mode, **options)
    exact, other = (whole(data, decoder) for decoder in ("pillow", "torchvision"))
    assert exact.shape == other.shape
    assert np.abs(exact - other).max() <= 2
    views = [View("center"), View("rrc:2"), View("five")]
    cut = [decode_views(data, HOW, views, "ab" * 32, decoder=name) for name in DECODERS if
           name != "nvjpeg"]  # fmt: skip
    for view in views:
        apart = cut[0].pixels[view.name].astype(int) - cut[1].pixels[view.name]
        assert np.abs(apart).max() <= 2
    assert (cut[1].width, cut[1].height) == (140, 100)


def test_torchvision_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    plain = torchvision.io.decode_jpeg

    def noted(data: torch.Tensor, **options: Any) -> torch.Tensor:
        seen.append(options)
        found: torch.Tensor = plain(data)
        return found

    monkeypatch.setattr(torchvision.io, "decode_jpeg", noted)
    for decoder in DECODERS:
        decode(photograph(), HOW, decoder)
    assert seen == [{"device": "cpu"}, {"device": "cuda"}]


@pytest.mark.parametrize(
    "data",
    [photograph("CMYK"), photograph(form="PNG"), photograph("P", "PNG"), photograph(form="WEBP")],
)
def test_all_else_is_decoded_by_pillow(data: bytes) -> None:
    exact = decode(data, HOW).pixels
    np.testing.assert_array_equal(decode(data, HOW, "torchvision").pixels, exact)


@pytest.mark.parametrize("left", [0, 10, 300, -40])
def test_broken_files_fail_for_the_same_reason(left: int) -> None:
    data = photograph()[:left]
    reasons = []
    for decoder in ("pillow", "torchvision"):
        with pytest.raises(ImageError) as told:
            decode(data, HOW, decoder)
        reasons.append(str(told.value))
    assert reasons[0] == reasons[1]


def test_threads_decode_on_the_gpu_of_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    streams: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "Stream", lambda index: f"stream {len(streams)} of {index}")
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    for device in ("cuda:1", "cuda"):
        start = start_of_thread("nvjpeg", torch.device(device))
        assert start is not None
        start()
    assert chosen == [1, 2]
    assert streams == ["stream 0 of 1", "stream 1 of 2"]  # none waits for the encoder
    assert start_of_thread("pillow", torch.device("cuda:1")) is None


def test_a_torchvision_without_nvjpeg_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(*_: Any, **__: Any) -> torch.Tensor:
        raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support\n...")

    monkeypatch.setattr(torchvision.io, "decode_jpeg", lacks)
    with pytest.raises(UsageError, match="not compiled with nvJPEG support.: take 'torchvision'"):
        require_decoder("nvjpeg", "cuda", 0)
    with monkeypatch.context() as patch:
        patch.setattr(torchvision.io, "decode_jpeg", lambda *_, **__: torch.zeros(3, 16, 16))
        require_decoder("nvjpeg", "cuda", 0)


def test_what_a_full_gpu_cannot_decode_is_not_decoded_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any, **__: Any) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torchvision.io, "decode_jpeg", full)
    with pytest.raises(ImageError, match="out of memory"):
        decode(photograph(), HOW, "nvjpeg")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Return a folder of six JPEG files in two classes."""
    for number in range(6):
        folder = tmp_path / "photos" / ("fox", "jay")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(photograph(quality=70 + number))
    return tmp_path / "photos"


def test_a_cache_has_one_decoder(photographs: Path, tiny_clip: Path, tmp_path: Path) -> None:
    encoder, out = load_encoder(f"local-dir:{tiny_clip}", device="cpu"), tmp_path / "cache"
    extract(photographs, out, encoder=encoder, decoder="torchvision")
    assert open_cache(out).numerics["decoder"] == "torchvision"
    with pytest.raises(IdentityError, match="(?s)numerics.*decoder.*torchvision.*pillow"):
        extract(photographs, out, encoder=encoder, decoder="pillow")
    extract(photographs, out, encoder=encoder, views=("flip",))  # goes on with its own
    plan = read_plan(out)
    assert plan is not None
    assert plan.decoder == "torchvision"
    recipe = DecoderRecipe(photographs, HOW, decoder="torchvision")
    assert recipe.open().decoder == "torchvision"  # of decode processes


def test_an_unfinished_cache_goes_on_with_its_decoder(
    photographs: Path, tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ltcache.extract import begin

    encoder, out = load_encoder(f"local-dir:{tiny_clip}", device="cpu"), tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(begin, "carry_out", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            extract(photographs, out, encoder=encoder, decoder="torchvision")
    with pytest.raises(IdentityError, match="decoder"):
        extract(photographs, out, encoder=encoder, decoder="pillow")
    extract(photographs, out, encoder=encoder)
    assert open_cache(out).numerics["decoder"] == "torchvision"


def test_what_cannot_decode_here_is_refused(
    photographs: Path, tiny_clip: Path, tmp_path: Path, call: Call
) -> None:
    encoder = load_encoder(f"local-dir:{tiny_clip}", device="cpu")
    with pytest.raises(UsageError, match="NVIDIA GPU"):
        extract(photographs, tmp_path / "c", encoder=encoder, decoder="nvjpeg")
    with pytest.raises(UsageError, match="no decoder 'turbo'"):
        extract(photographs, tmp_path / "c", encoder=encoder, decoder="turbo")
    assert not (tmp_path / "c").exists()
    given = ("--model", f"local-dir:{tiny_clip}", "--decoder", "nvjpeg", "--device", "cpu")
    status, _, err = call("extract", photographs, "--out", tmp_path / "c", *given)
    assert (status, "nvjpeg" in err) == (2, True)
