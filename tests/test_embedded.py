"""The packaged encoder folder is what plain open_clip expects, small, and says what it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch

from ltcache.embedded import encoder_path

FOLDERS = sorted(p.parent for p in encoder_path().parent.glob("*/open_clip_config.json"))
LIMIT = 24e6


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_the_default_is_among_the_packaged_encoders() -> None:
    assert encoder_path() in FOLDERS


def test_import_needs_no_torch() -> None:
    code = "import sys, ltcache.embedded as e; e.encoder_path(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_folder_is_small_and_documented(folder: Path) -> None:
    assert (folder / "open_clip_model.safetensors").stat().st_size <= LIMIT
    card = (folder / "MODEL_CARD.md").read_text("utf-8")
    for word in ("Licence", "Training", "zero-shot", "must not be taken for"):
        assert word in card
    text = card + (folder / "open_clip_config.json").read_text("utf-8")
    assert not any(place in text for place in ("/root", "/home", "/tmp", "/work"))


def test_plain_open_clip_opens_it(folder: Path) -> None:
    config = json.loads((folder / "open_clip_config.json").read_text("utf-8"))
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    normalise = preprocess.transforms[-1]
    assert list(normalise.mean) == config["preprocess_cfg"]["mean"]
    assert list(normalise.std) == config["preprocess_cfg"]["std"]
    text = config["model_cfg"]["text_cfg"]
    assert (tokenizer.context_length, tokenizer.vocab_size) == (text["context_length"], 49408)
    size = config["model_cfg"]["vision_cfg"]["image_size"]
    with torch.inference_mode():
        images = model.eval().encode_image(torch.zeros(2, 3, size, size))
        texts = model.encode_text(tokenizer(["a drawing of a bird", "zyzzyva"]))
    assert images.shape == texts.shape == (2, config["model_cfg"]["embed_dim"])
    assert torch.isfinite(images).all() and torch.isfinite(texts).all()
    assert not torch.allclose(texts[0], texts[1])


def test_stored_weights_are_half_precision_and_finite(folder: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(folder / "open_clip_model.safetensors")
    assert all(w.dtype == torch.float16 for w in weights.values() if w.is_floating_point())
    assert all(torch.isfinite(w).all() for w in weights.values())


def test_training_forward_equals_open_clip() -> None:
    pytest.importorskip("resvg_py", reason="the recipe needs the build extra")
    from pipelines.embedded_encoder import student

    torch.manual_seed(0)
    clip = student.create().eval()
    images = torch.randn(3, 3, 64, 64)
    every = torch.arange(student.SIDE**2).expand(3, -1)
    with torch.no_grad():
        pooled, tokens = student.encode_tokens(clip.visual, images, None)
        chosen, _ = student.encode_tokens(clip.visual, images, every)
        expected = clip.encode_image(images)
    torch.testing.assert_close(pooled @ clip.visual.proj, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(chosen, pooled)
    assert tokens.shape == (3, student.SIDE**2, 192)
