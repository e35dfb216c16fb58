"""Extraction on a GPU, pretended: no batch waits for the one before it, and features are right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ltcache.cache import open_cache
from ltcache.encoder import load_encoder
from ltcache.extract import extract
from ltcache.manifest import read_manifest
from tests.pretended_device import WaitLog, pretended_device

pytestmark = pytest.mark.slow


def _encoded(model: Path, images: Path, out: Path, device: str, batch: int) -> WaitLog:
    """Write a cache; return what the host waits for once the encoder is loaded."""
    with pretended_device() as log:
        encoder = load_encoder(f"local-dir:{model}", device=device)
        log.clear()
        extract(read_manifest(images), out, encoder=encoder, batch_size=batch, workers=1,
                views=("center", "flip"))  # fmt: skip
        return WaitLog(log)


def test_no_batch_waits_and_features_are_those_of_the_cpu(
    few_images: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    logs = [
        _encoded(tiny_clip, few_images, tmp_path / f"batch {batch}", "cuda", batch)
        for batch in (10, 5)
    ]
    assert not logs[1] - logs[0], (logs[1] - logs[0]).most_common()
    assert all(line.startswith("encoder/") for _, line in logs[0]), logs[0]  # of class prompts
    assert not _encoded(tiny_clip, few_images, tmp_path / "cpu", "cpu", 10)
    for view in ("center", "flip"):
        here, there = (
            open_cache(tmp_path / name).features(view=view) for name in ("cpu", "batch 10")
        )
        np.testing.assert_allclose(there, here, rtol=2e-3, atol=2e-3)
