"""A method that learns from the rows that it predicts, as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.class_folders import write_images
from tests.conftest import Call

QUICK = ("-s", "optimisation.epochs=3")


def test_a_cache_gets_two_random_crops_and_each_score_says_what_it_saw(
    call: Call, tiny_clip: Path, tmp_path: Path
) -> None:
    images, cache, run = (tmp_path / name for name in ("birds", "cache", "run"))
    for split, counts in {"train": (24, 8, 4), "val": (4, 4, 4), "test": (6, 6, 6)}.items():
        write_images(images / split, dict(zip(("jay", "moth", "newt"), counts, strict=True)))
    model = ("--model", f"local-dir:{tiny_clip}", "--threads", "1")
    fit = ("fit-adapter", cache, "--method", "tade", "--out", run, *QUICK)
    assert call("extract", images, "--out", cache, *model)[0] == 0
    status, _, err = call(*fit)
    assert status != 0 and "ltcache extract SOURCE --out CACHE --views center,rrc:2" in err
    assert call("extract", images, "--out", cache, "--views", "center,rrc:2", *model)[0] == 0

    status, shown, err = call(*fit)
    assert status == 0, err
    words = "learned from these {} images of {} (rrc:2) without their labels (transductive"
    assert words.format(12, "val") in shown and words.format(18, "test") in shown
    assert "weights (" in shown

    status, shown, _ = call("evaluate", run, "--shift", "forward-3", "--json")
    (seen,) = json.loads(shown)["adaptations"]
    assert status == 0 and (seen["split"], seen["view"]) == ("test", "rrc:2")
    assert seen["rows"] == json.loads(shown)["num_rows"] < 18
    status, shown, _ = call("evaluate", run, "--shift", "forward-3")
    assert status == 0 and words.format(seen["rows"], "test") in shown
    status, _, err = call("evaluate", run, "--test-prior", "uniform")
    assert status != 0 and "leave the test prior out" in err

    status, _, err = call("predict", run, images / "test")
    assert status != 0 and "predicts no image by itself" in err and "--method sade" in err
    for form in ("bundle", "onnx"):
        status, _, err = call("export", run, "--format", form, "--out", tmp_path / form)
        assert status != 0 and "predicts no image by itself" in err
    status, shown, _ = call("report", run)
    assert status == 0 and "transductive" in shown


def test_seeds_and_post_ot_print_what_was_learned(call: Call, tmp_path: Path) -> None:
    from tests.cli.small_caches import write_cache

    cache = write_cache(tmp_path / "cache", {"train": (20, 10, 5, 5), "test": (5, 5, 5, 5)})
    out = tmp_path / "runs"
    status, shown, err = call(
        "fit-adapter", cache, "--method", "post-ot", "--seeds", "2", "--out", out, *QUICK
    )
    assert status == 0, err
    for seed in (0, 1):
        assert f"seed {seed}: PostOptimalTransport learned from these 20 images" in shown
    status, shown, _ = call("evaluate", out)
    assert status == 0 and "seed-1: PostOptimalTransport learned from these 20" in shown
