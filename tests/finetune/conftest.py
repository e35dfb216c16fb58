"""Images and a fast way to tune on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ltcache.finetune import FineTuned, finetune
from ltcache.manifest import Manifest
from tests.encoder.tiny_models import write_tiny_clip
from tests.finetune.pictures import read_pictures, write_pictures

QUICK = {"optimisation.epochs": 2, "optimisation.batch": 8, "optimisation.lr": 1e-2}

Tune = Callable[..., FineTuned]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Return 23 training and 9 validation images in three classes."""
    return read_pictures(write_pictures(tmp_path_factory.mktemp("pictures") / "images"))


@pytest.fixture(scope="session")
def towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return kind of the image tower -> a tiny encoder with it, as a user names it."""
    folder = tmp_path_factory.mktemp("towers")
    return {
        kind: f"local-dir:{write_tiny_clip(folder / kind, kind=kind)}"
        for kind in ("vit", "resnet", "timm")
    }


@pytest.fixture
def tune(pictures: Manifest, towers: dict[str, str], tmp_path: Path) -> Tune:
    """Return a function that tunes for two epochs of three steps, in this process."""

    def run(method: Any, kind: str = "vit", out: str = "tuned", **options: Any) -> FineTuned:
        overrides = {**QUICK, **options.pop("overrides", {})}
        source = options.pop("source", pictures)
        return finetune(
            source, method, tmp_path / out, model=towers[kind], overrides=overrides, device="cpu",
            workers=0, **options,
        )  # fmt: skip

    return run
