"""Tiny encoders, written once, and architectures that stand in for open_clip's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip.factory
import pytest

from ltcache.encoder import Encoder, load_encoder
from tests.encoder.tiny_models import tiny_config, write_tiny_clip


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that writes a tiny model once for equal arguments."""
    written: dict[Any, Path] = {}

    def folder(**options: Any) -> Path:
        key = tuple(sorted(options.items()))
        if key not in written:
            written[key] = write_tiny_clip(tmp_path_factory.mktemp("tiny") / "model", **options)
        return written[key]

    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Callable[..., Path]) -> Callable[..., Encoder]:
    """Return a function that loads a tiny model once for equal arguments."""
    loaded: dict[Any, Encoder] = {}

    def encoder(**options: Any) -> Encoder:
        key = tuple(sorted(options.items()))
        if key not in loaded:
            loaded[key] = load_encoder(f"local-dir:{tiny_folder(**options)}", device="cpu")
        return loaded[key]

    return encoder


@pytest.fixture
def architectures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Add ``tiny-vit`` and ``tiny-vit-quickgelu`` to the architectures that open_clip knows."""
    known = open_clip.factory._MODEL_CONFIGS
    monkeypatch.setitem(known, "tiny-vit", tiny_config())
    monkeypatch.setitem(known, "tiny-vit-quickgelu", tiny_config(quick_gelu=True))
    return known
