"""A timm backbone from images to an ensemble with zero-shot, as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ltcache.cache import open_cache
from ltcache.cli import main
from tests.conftest import Call

MODEL = ("--model", "timm:test_resnet", "--pretrained", "random:0")
COUNTS = {"red fox": 12, "blue jay": 8, "moth": 6}


def _write(root: Path) -> Path:
    """Write noisy colour fields, different ones in each split."""
    for number, split in enumerate(("train", "val", "test")):
        for label, (name, count) in enumerate(COUNTS.items()):
            rng = np.random.default_rng([number, label])
            color = np.random.default_rng(label).integers(0, 256, 3)
            (root / split / name).mkdir(parents=True)
            for image in range(count if split == "train" else 6):
                pixels = np.clip(color + rng.integers(-120, 120, (48, 40, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{image}.png")
    return root


def _do(*arguments: object) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert caught.value.code == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with images, caches of them by timm and by the embedded encoder, a run."""
    root = tmp_path_factory.mktemp("timm")
    images = _write(root / "images")
    _do("extract", images, "--out", root / "timm", *MODEL)
    _do("extract", images, "--out", root / "clip")
    _do("fit-adapter", root / "timm", "--method", "ncm", "--out", root / "run")
    _do("fit-adapter", root / "timm", "--method", "ce", "--out", root / "linear")
    return root


def test_the_cache_says_what_made_it(call: Call, made: Path) -> None:
    cache = open_cache(made / "timm")
    assert list(cache.field_dims()) == ["pooled"] and cache.prompt_names == ()
    assert cache.image_only and not open_cache(made / "clip").image_only
    assert cache.logit_scale is None and cache.projection is None
    out = call("inspect", made / "timm", "--checks")[1]
    assert "timm:test_resnet, random:0 (timm test_resnet at 160 px)" in out
    assert "image tower" in out and "text tower" not in out
    assert call("extract", made / "images", "--out", made / "timm", *MODEL)[0] == 0
    other = ("--model", "timm:test_resnet", "--pretrained", "random:1")
    status, _, err = call("extract", made / "images", "--out", made / "timm", *other)
    assert status == 4 and "towers.image" in err


def test_an_ensemble_with_the_zero_shot_of_a_dual_encoder(
    call: Call, made: Path, tmp_path: Path
) -> None:
    status, out, _ = call(
        "ensemble", made / "run", f"zero-shot:{made / 'clip'}", "--out", tmp_path / "e"
    )
    assert status == 0
    assert "chosen on val by mean accuracy per class, of 21" in out
    assert "2 different encoders, by design" in out
    record = json.loads((tmp_path / "e" / "ensemble.json").read_text())
    assert record["tuned_on"] == {"weights": "val"}
    assert record["rows"]["test"]["rows"] == 18
    assert record["rows"]["test"]["content_differs"] == 0
    tried = record["tried"]
    chosen = max(tried, key=lambda t: (t["mean_per_class"], -t["nll"]))["weights"]
    assert [member["weight"] for member in record["members"]] == chosen
    numbers = json.loads((tmp_path / "e" / "metrics.json").read_text())
    alone = json.loads(call("zero-shot", made / "clip", "--json")[1])
    assert numbers["members"]["zero-shot"]["test"]["overall"] == alone["overall"]
    status, _, err = call("ensemble", made / "run", "zero-shot", "--out", tmp_path / "f")
    assert status == 2 and "zero-shot:CACHE" in err


@pytest.mark.parametrize("method", ["logit-adjustment", "crt", "lift-lp", "knn", "tau-norm", "gda"])
def test_methods_without_texts_fit(method: str, call: Call, made: Path, tmp_path: Path) -> None:
    arguments = ("fit-adapter", made / "timm", "--method", method, "--out", tmp_path / "run")
    assert call(*arguments)[0] == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["field"] == "pooled"


def test_a_run_evaluates_predicts_and_compares(
    call: Call, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, out, _ = call("evaluate", made / "run", "--json")
    assert status == 0
    test = json.loads(out)
    images = sorted((made / "images" / "test").rglob("*.png"))
    found = [
        json.loads(x) for x in call("predict", made / "run", *images, "--json")[1].splitlines()
    ]
    right = [p["names"][0] == path.parent.name for p, path in zip(found, images, strict=True)]
    assert np.mean(right) == pytest.approx(test["overall"])
    arguments = ("--methods", "ncm,knn", "--seeds", "1", "--out", tmp_path / "a")
    status, out, _ = call("ablate", made / "timm", *arguments)
    assert status == 0 and "knn" in out
    monkeypatch.setattr("ltcache.ablate.auto.SHORT_LIST", ("ncm", "posthoc-la", "gda"))
    _, out, _ = call("fit-adapter", made / "timm", "--method", "auto", "--out", tmp_path / "auto")
    assert "method chosen on val" in out
    auto = json.loads((tmp_path / "auto" / "run.json").read_text())["tuning"]["auto"]
    assert set(auto["methods"]["scores"]) == {"ncm", "posthoc-la", "gda"} and not auto["failed"]


def test_the_cache_is_verified_compared_and_carried(call: Call, made: Path, tmp_path: Path) -> None:
    sample = ("--sample", "4", "--root", made / "images")
    status, out, _ = call("verify", made / "timm", *sample)
    assert status == 0 and "encoded again: 4 images, cosine at least 1.0" in out
    assert call("export", made / "timm", "--out", tmp_path / "x")[0] == 0
    assert call("import", tmp_path / "x", "--out", tmp_path / "y")[0] == 0
    status, out, _ = call("diff", made / "timm", tmp_path / "y")
    assert status == 0 and "nothing differs" in out and "not compared" not in out
    restored = open_cache(tmp_path / "y")
    assert restored.image_only and restored.encoder == open_cache(made / "timm").encoder
    _, out, _ = call("diff", made / "timm", made / "clip")
    assert "pooled has 96 and 1280 dimensions" in out


def test_a_tuned_comparison_lists_what_the_cache_cannot_serve(
    call: Call, made: Path, tmp_path: Path
) -> None:
    arguments = ("--methods", "ncm,ballad", "--seeds", 1, "--tune", "--trials", 2, "--workers", 1)
    status, out, err = call("ablate", made / "timm", *arguments, "--out", tmp_path / "out")
    assert status == 3 and "ncm" in out, err
    assert "ballad, seed 0: " in out and "'embedding'" in out


DUAL = "--model ViT-B-16"
FIT = ("fit-adapter", "CACHE", "--out", "OUT", "--method")


def test_zero_shot_is_not_told_to_take_a_field_without_texts(
    call: Call, made: Path, tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "out")
    status, _, err = call("fit-adapter", made / "timm", "--method", "zero-shot", *out)
    assert status in (1, 2) and DUAL in err and "feature.field=pooled" not in err, err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("zero-shot", "CACHE"), ("no text tower", DUAL, "ltcache ensemble")),
        (("prompts", "CACHE", "--templates", "openai-simple"), ("no text tower", DUAL)),
        (("retrieve-tail", "CACHE", "CACHE", "--out", "OUT"), ("'embedding'", DUAL)),
        (("search", "CACHE", "--text", "a fox"), ("'embedding'", DUAL)),
        ((*FIT, "ballad"), ("'embedding'", DUAL)),
        (
            (*FIT, "sage"),
            ("needs class texts", "image-only", "another method or init"),
        ),
        ((*FIT, "zero-shot", "-s", "feature.field=pooled"), ("needs class texts", "image-only")),
        (
            (*FIT, "ce", "-s", "init=text", "-s", "feature.transform=l2"),
            ("needs class texts", "image-only"),
        ),
        (("export", "RUN", "--format", "bundle", "--out", "OUT"), ("--format onnx",)),
    ],
)
def test_what_needs_texts_names_the_remedy(
    arguments: tuple[str, ...], words: tuple[str, ...], call: Call, made: Path, tmp_path: Path
) -> None:
    places = {"CACHE": made / "timm", "RUN": made / "linear", "OUT": tmp_path / "out"}
    status, _, err = call(*(places.get(part, part) for part in arguments))
    assert status in (1, 2)
    assert all(word in err for word in words), err
    assert not (tmp_path / "out").exists()
