"""Heads on token maps: TIN's attention from a cache alone, in a run that stands alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ltcache.cache import Cache, open_cache
from ltcache.errors import FitError
from ltcache.evaluate import evaluate
from ltcache.extract import extract
from ltcache.fit import fit_adapter
from ltcache.methods import METHODS
from ltcache.runs.run import open_run
from tests.conftest import write_images
from tests.encoder.tiny_models import write_tiny_clip

EDGES = {"vit": 32, "resnet": 64, "timm": 64}
GATED = {"feature.field": "tokens", "feature.transform": "none", "head": "visual_attention",
         "head.kernel": 5, "head.dilation": 1, "init": "text", "optimisation.epochs": 2,
         "optimisation.lr": 0.01}  # fmt: skip


@pytest.fixture(scope="module", params=["vit", "resnet", "timm"])
def cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """Return a cache with tokens of a small tower of each kind."""
    folder = tmp_path_factory.mktemp(request.param)
    edge = EDGES[request.param]
    model = write_tiny_clip(folder / "model", kind=request.param, image_size=edge)
    for split in ("train", "val", "test"):
        write_images(folder / "images" / split, {"moth": 8, "newt": 4}, size=edge + 9)
    with pytest.warns(UserWarning, match="in float16 take"):
        extract(
            folder / "images",
            folder / "cache",
            model=f"local-dir:{model}",
            fields=("embedding", "tokens"),
        )
    return open_cache(folder / "cache")


def test_an_untrained_gate_scores_as_the_embedding_does(cache: Cache) -> None:
    frozen = {**GATED, "optimisation.lr": 1e-12, "optimisation.epochs": 1}
    run = fit_adapter(cache, METHODS["tin"], overrides=frozen)
    plain = fit_adapter(
        cache,
        METHODS["tin"],
        overrides={"feature.field": "embedding", "init": "text", "optimisation.lr": 1e-12,
                   "optimisation.epochs": 1},
    )  # fmt: skip
    tokens, embedding = cache.features("test", "tokens"), cache.features("test", "embedding")
    difference = np.abs(run.logits(tokens) - plain.logits(embedding)).max()
    assert difference < 0.02 * np.abs(plain.logits(embedding)).max() + 1e-3


def test_training_moves_the_gate_and_the_run_stands_alone(cache: Cache, tmp_path: Path) -> None:
    run = fit_adapter(cache, METHODS["tin"], tmp_path / "run", overrides=GATED)
    state = run.head.state_dict()
    assert torch.count_nonzero(state["pointwise.weight"]) > 0
    assert not any(name.startswith("rest") for name in state)
    again = open_run(tmp_path / "run")
    tokens = cache.features("test", "tokens")
    assert np.array_equal(again.logits(tokens), run.logits(tokens))
    assert evaluate(again, cache, split="test") == run.metrics["test"]


OLTR = {"feature.field": "tokens", "feature.transform": "none", "head.attention": True,
        "stages.0.optimisation.epochs": 2, "optimisation.epochs": 2,
        "optimisation.lr": 0.01}  # fmt: skip


def test_oltr_attends_to_tokens_between_the_linear_stage_and_the_memory(
    cache: Cache, tmp_path: Path
) -> None:
    run = fit_adapter(cache, "oltr", tmp_path / "run", overrides=OLTR)
    assert run.method.name == (
        "oltr (head.attention=true, feature.field=tokens, feature.transform=none)"
    )
    assert torch.count_nonzero(run.head.state_dict()["modulated.mask.weight"]) > 0
    again = open_run(tmp_path / "run")
    tokens = cache.features("test", "tokens")
    assert np.array_equal(again.logits(tokens), run.logits(tokens))
    off = fit_adapter(cache, "oltr", overrides={**OLTR, "head.attention": False})
    assert not np.array_equal(off.logits(tokens), run.logits(tokens))


def test_a_linear_head_on_tokens_is_one_on_the_embedding(cache: Cache) -> None:
    same = {"feature.transform": "none", "optimisation.epochs": 2}
    on_map = fit_adapter(cache, "ce", overrides={**same, "feature.field": "tokens"})
    plain = fit_adapter(cache, "ce", overrides={**same, "feature.field": "embedding"})
    tokens, embedding = cache.features("test", "tokens"), cache.features("test", "embedding")
    difference = np.abs(on_map.logits(tokens) - plain.logits(embedding)).max()
    assert difference < 0.02 * np.abs(plain.logits(embedding)).max() + 1e-3


def test_tokens_are_taken_as_they_are(cache: Cache) -> None:
    with pytest.raises(FitError, match="takes tokens as they are: set feature.transform=none"):
        fit_adapter(cache, "tin", overrides={**GATED, "feature.transform": "l2"})
