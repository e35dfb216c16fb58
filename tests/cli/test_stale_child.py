"""A tuned encoder and its parent are two encoders: what one made is refused with the other.

Only the image tower was tuned, so the class texts are the same and nothing but the digest of that
tower and the adapters in it tell the two apart.
"""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch

from ltcache.cli import main
from ltcache.encoder import Encoder, load_encoder, save_checkpoint
from ltcache.encoder.adapters import AdapterSpec, insert_adapters
from tests.conftest import Call, write_images

FIT = ("--method", "lift-lp", "-s", "optimisation.epochs=1")
MOVED = "towers.image"


class Made:
    """Images, a parent, a child in each form, and what was made with parent and child.

    Attributes:
        images: class folders. parent, whole, adapted: folders of encoders.
        cache, child_cache, pool, child_pool, run, child_run: by the parent and by ``whole``.
    """

    def __init__(self, root: Path, parent: Path) -> None:
        self.images = write_images(root / "images" / "train", {"red fox": 12, "moth": 3}).parent
        write_images(root / "images" / "test", {"red fox": 2, "moth": 2})
        shutil.copytree(self.images / "train" / "moth", root / "pool" / "a")
        self.parent = parent
        encoder = load_encoder(f"local-dir:{parent}", device="cpu")
        self.whole = _child(encoder, root / "whole")
        self.adapted = _child(
            encoder, root / "adapted", AdapterSpec("adaptformer", {"bottleneck": 2})
        )
        self.cache = _extract(self.images, root / "cache", parent)
        self.child_cache = _extract(self.images, root / "child-cache", self.whole)
        self.pool = _extract(root / "pool", root / "pool-cache", parent, "--unlabelled")
        self.child_pool = _extract(root / "pool", root / "child-pool", self.whole, "--unlabelled")
        self.run, self.child_run = root / "run", root / "child-run"
        _typed("fit-adapter", self.cache, "--out", self.run, *FIT)
        _typed("fit-adapter", self.child_cache, "--out", self.child_run, *FIT)


def _child(parent: Encoder, out: Path, *adapters: AdapterSpec) -> Path:
    model = copy.deepcopy(parent.model)
    insert_adapters(model, adapters)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.visual.named_parameters():
            if not adapters or name.startswith("adapters."):
                tensor.add_(0.02 * torch.randn(tensor.shape, generator=generator))
    save_checkpoint(out, parent.with_model(model), parent=parent, record={})
    return out


def _typed(*arguments: object) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert not caught.value.code


def _extract(source: Path, out: Path, encoder: Path, *options: str) -> Path:
    _typed("extract", source, "--out", out, "--model", f"local-dir:{encoder}", *options)
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Path) -> Made:
    return Made(tmp_path_factory.mktemp("stale"), tiny_clip)


def refused(call: Call, *arguments: object, words: str = MOVED) -> None:
    status, _, err = call(*arguments)
    assert status == 4, err
    assert words in err


@pytest.mark.parametrize("form", ["whole", "adapted"])
def test_nothing_of_the_parent_takes_its_child(call: Call, made: Made, form: str) -> None:
    child = f"local-dir:{getattr(made, form)}"
    words = MOVED if form == "whole" else "architecture.adapters"
    images = made.images / "test"
    texts = ("--templates", "openai-simple", "--name", "more")
    refused(call, "extract", made.images, "--out", made.cache, "--model", child, words=words)
    flip = ("--views", "flip")
    refused(call, "extract", made.images, "--out", made.cache, "--model", child, *flip, words=words)
    refused(call, "prompts", made.cache, *texts, "--model", child, words=words)
    refused(call, "predict", made.run, images, "--model", child, words=words)
    again = ("--sample", 3, "--source", made.images)
    refused(call, "verify", made.cache, *again, "--model", child, words=words)
    search = ("--text", "a moth", "--model", child)
    refused(call, "search", made.pool, *search, words=words)


def test_nothing_of_the_child_takes_its_parent(call: Call, made: Made) -> None:
    parent = f"local-dir:{made.parent}"
    refused(call, "extract", made.images, "--out", made.child_cache, "--model", parent)
    refused(call, "predict", made.child_run, made.images / "test", "--model", parent)
    refused(call, "evaluate", made.child_run, "--cache", made.cache)


def test_caches_and_runs_of_the_two_do_not_mix(call: Call, made: Made, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "x")
    refused(call, "evaluate", made.run, "--cache", made.child_cache)
    few = ("--per-class", 1, "--labels", "0,1", "--threshold", 0)
    refused(call, "retrieve-tail", made.cache, made.child_pool, *few, *out)
    refused(call, "retrieve-tail", made.child_cache, made.pool, *few, *out)
    retrieved = tmp_path / "retrieved"
    _typed("retrieve-tail", made.child_cache, made.child_pool, *few, "--out", retrieved)
    refused(call, "fit-adapter", made.cache, "--extra", retrieved, *FIT, *out)
    look = ("--gallery", "--source", made.images, "--pool-source", made.images.parent / "pool")
    refused(call, "review", retrieved, made.cache, *look)
    other = ("--cache", made.child_cache)
    refused(call, "ensemble", made.run, "zero-shot", *other, *out)
    assert not (tmp_path / "x").exists()


def test_the_child_works_with_what_it_has_made(call: Call, made: Made, tmp_path: Path) -> None:
    for form in ("whole", "adapted"):
        child = f"local-dir:{getattr(made, form)}"
        cache = tmp_path / form
        assert call("extract", made.images, "--out", cache, "--model", child)[0] == 0
        status, out, _ = call("extract", made.images, "--out", cache, "--model", child)
        assert (status, "nothing to encode" in out) == (0, True)
        run = tmp_path / f"{form}-run"
        assert call("fit-adapter", cache, "--out", run, *FIT)[0] == 0
        status, out, _ = call("predict", run, made.images / "test", "--model", child)
        assert (status, "red fox" in out) == (0, True)
        assert call("zero-shot", cache)[0] == 0
        more = ("--templates", "openai-simple", "--name", "more", "--model", child)
        assert call("prompts", cache, *more)[0] == 0
        again = ("--sample", 3, "--source", made.images, "--model", child)
        assert call("verify", cache, *again)[0] == 0
    status, _, err = call("export", run, "--out", tmp_path / "bundle", "--model", child)
    assert status == 1
    assert "adaptformer" in err
    assert "--format onnx" in err


def test_a_user_may_let_it_pass_and_the_result_says_so(call: Call, made: Made) -> None:
    let = ("--cache", made.child_cache, "--allow-stale", "encoder")
    status, out, err = call("evaluate", made.run, *let)
    assert status == 0
    assert "towers.image" in out + err
