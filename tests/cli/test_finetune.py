"""``ltcache finetune`` as a person types it: a checkpoint, a new cache, a run, nothing stale."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ltcache.cache import open_cache
from ltcache.encoder import load_encoder
from tests.conftest import Call, write_images

QUICK = ("-s", "optimisation.epochs=1", "-s", "optimisation.batch=16", "--workers", "0")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("birds")
    for split, counts in {"train": (24, 8, 4), "val": (4, 4, 4), "test": (4, 4, 4)}.items():
        write_images(root / split, dict(zip(("jay", "moth", "newt"), counts, strict=True)))
    return root


@pytest.fixture
def cache(images: Path, tiny_clip: Path, tmp_path: Path, call: Call) -> Path:
    out = tmp_path / "cache"
    model = ("--model", f"local-dir:{tiny_clip}", "--threads", "1")
    assert call("extract", images, "--out", out, "--views", "rrc:2,five", *model)[0] == 0
    return out


def tune(
    call: Call, images: Path, tiny_clip: Path, out: Path, *more: object
) -> tuple[int, str, str]:
    model = ("--model", f"local-dir:{tiny_clip}")
    return call("finetune", images, "--out", out, *model, *QUICK, *more)


def test_a_cache_is_renewed_with_views_texts_and_a_run(
    call: Call, images: Path, tiny_clip: Path, cache: Path, tmp_path: Path
) -> None:
    out = tmp_path / "lift"
    assert call("prompts", cache, "--templates", "openai-simple", "--model",
                f"local-dir:{tiny_clip}")[0] == 0  # fmt: skip
    before = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    status, shown, _ = tune(call, images, tiny_clip, out, "--method", "lift", "--cache", cache)
    assert status == 0 and "chosen on val" in shown and "lift, test" in shown
    assert "before tuning, val" in shown
    assert {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()} == before

    parent, child = open_cache(cache), open_cache(out / "cache")
    assert child.views == parent.views and child.prompt_names == parent.prompt_names
    assert child.manifest.identity() == parent.manifest.identity()
    assert child.encoder["architecture"]["adapters"][0]["name"] == "adaptformer"
    encoder = load_encoder(f"local-dir:{out}", device="cpu")
    assert encoder.identity == child.encoder
    assert not np.allclose(child.features("test"), parent.features("test"))

    scores = json.loads((out / "run" / "metrics.json").read_text())
    assert scores["cost"]["finetune_seconds"] > 0 and scores["cost"]["encoder_passes"] == 2
    assert call("evaluate", out / "run", "--split", "test")[0] == 0
    image = next((images / "test").rglob("*.png"))
    assert call("predict", out / "run", image)[0] == 0  # finds its encoder above itself
    moved = json.loads(call("diff", cache, out / "cache", "--json")[1])["features"]
    assert set(moved["groups"]) <= {"many", "medium", "few"} and moved["minimum"] < 1

    again = tune(call, images, tiny_clip, out, "--method", "lift", "--cache", cache)
    assert again[0] == 0 and "0 images encoded anew" in again[1]


def test_heads_of_the_parent_and_of_the_child_refuse_each_other(
    call: Call, images: Path, tiny_clip: Path, cache: Path, tmp_path: Path
) -> None:
    out, old = tmp_path / "full", tmp_path / "old"
    assert call("fit-adapter", cache, "--method", "ce", "--out", old)[0] == 0
    full = ("--method", "full", "--cache", cache)
    assert tune(call, images, tiny_clip, out, *full)[0] == 0
    for run, features in ((old, out / "cache"), (out / "run", cache)):
        status, _, error = call("evaluate", run, "--cache", features)
        assert status == 4 and "towers.image" in error
    model = ("--model", f"local-dir:{out}")
    assert call("extract", images, "--out", cache, *model)[0] == 4
    # the child is an encoder like any other: it can be tuned again
    second = ("--method", "bias", "--cache", out / "cache", *QUICK, *model)
    assert call("finetune", images, "--out", tmp_path / "again", *second)[0] == 0


def test_class_texts_are_a_zero_shot_run_with_the_template_of_the_tuning(
    call: Call, images: Path, tiny_clip: Path, cache: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tin"
    status, shown, _ = tune(call, images, tiny_clip, out, "--method", "tin", "--cache", cache,
                            "--json")  # fmt: skip
    record = json.loads(shown)
    assert status == 0 and set(record["splits"]) == {"val", "test"}
    assert open_cache(out / "cache").manifest.templates == ("The image is a {}",)
    zero_shot = json.loads(call("zero-shot", out / "cache", "--json")[1])
    assert zero_shot["overall"] == record["splits"]["test"]["overall"]


def test_without_a_cache_there_is_a_checkpoint_alone(
    call: Call, images: Path, tiny_clip: Path, cache: Path, tmp_path: Path
) -> None:
    for name, more in (("plain", ()), ("kept", ("--cache", cache, "--no-extract"))):
        out = tmp_path / name
        status, shown, _ = tune(call, images, tiny_clip, out, "--method", "lora", *more)
        assert status == 0 and "lora, val" in shown and f"local-dir:{out}" in shown
        assert (out / "open_clip_config.json").exists() and not (out / "cache").exists()


def test_what_cannot_be_meant_is_refused_before_anything_is_trained(
    call: Call, images: Path, tiny_clip: Path, cache: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    other = tmp_path / "other"
    shutil.copytree(images, other)
    shutil.rmtree(other / "train" / "newt")
    write_images(other / "train", {"newt": 1})
    cases: list[tuple[tuple[object, ...], int, str]] = [
        (("--method", "lfit"), 2, "lift"),
        (("-s", "optimisation.lrs=1"), 2, "optimisation.lr"),
        (("--new-cache", tmp_path / "x"), 2, "--cache"),
        (("-s", "optimisation.lr=0"), 2, "positive"),
        (("-s", "adapters=adaptfromer"), 2, "adaptformer"),
    ]
    for more, expected, text in cases:
        status, _, error = tune(call, images, tiny_clip, out, *more)
        assert (status, text in error) == (expected, True), error
    status, _, error = tune(call, other, tiny_clip, out, "--cache", cache)
    assert status == 4 and "num_rows" in error
    status, _, error = call("finetune", images, "--out", out, "--cache", cache, "--model",
                            "embedded", *QUICK)  # fmt: skip
    assert status == 4 and "the encoder differs" in error
    assert not out.exists()


def test_without_a_model_the_embedded_encoder_is_tuned(
    call: Call, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    status, _, error = call("finetune", images, "--out", out, "--method", "bias", *QUICK)
    assert status == 0, error
    assert "tuning with the small embedded encoder" in error
    assert json.loads((out / "ltcache.json").read_text())["parent"]["model"] == "embedded"


@pytest.mark.parametrize(
    ("method", "view", "more", "said"),
    [
        ("lift", "rrc:9", (), "has the views center, five, rrc:2 alone"),
        ("tin", "five", (), "eval_view has no effect: classifier.head is texts"),
        ("lift", "five", ("--no-extract",), "eval_view=five has no effect without a --cache"),
    ],
)
def test_a_view_that_nothing_would_be_judged_by_is_refused(
    call: Call, images: Path, tiny_clip: Path, cache: Path, tmp_path: Path,
    method: str, view: str, more: tuple[str, ...], said: str,
) -> None:  # fmt: skip
    chosen = ("--method", method, "-s", f"eval_view={view}", "--cache", cache, *more)
    status, _, err = tune(call, images, tiny_clip, tmp_path / "out", *chosen)
    assert status == 2 and said in " ".join(err.split())
    assert not (tmp_path / "out").exists()


def test_a_cache_of_its_own_templates_is_tuned_evaluated_and_encoded_with_these(
    call: Call, images: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    said, cache, out = tmp_path / "said.txt", tmp_path / "cache", tmp_path / "tin"
    said.write_text("a drawing of many a {}, seen from afar\n")
    model = ("--model", f"local-dir:{tiny_clip}")
    extracted = call("extract", images, "--out", cache, "--templates", said, *model)
    assert extracted[0] == 0
    texts = ("--method", "tin", "-s", "template=none", "--cache", cache, "--json")
    status, shown, _ = tune(call, images, tiny_clip, out, *texts)
    assert status == 0
    record, child = json.loads(shown), open_cache(out / "cache")
    assert tuple(record["templates"]) == child.manifest.templates == (said.read_text().strip(),)
    # the run is scored with the texts that chose the epoch
    assert record["splits"]["val"]["overall"] == record["val"]["overall"]
    assert record["splits"]["val"]["nll"] == pytest.approx(record["val"]["nll"], rel=1e-4)
