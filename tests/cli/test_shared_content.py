"""Images that stand in two splits are told wherever the splits are used together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ltcache.cache import open_cache
from tests.conftest import Call, write_images

SAID = "warning: identical images stand in two splits: 2 images of test in train (test/"
FEW = ("--method", "ce", "-s", "optimisation.epochs=2")


@pytest.fixture
def cache(call: Call, tiny_clip: Path, tmp_path: Path) -> Path:
    """Return a cache with two test images that are training images under another name."""
    root = tmp_path / "images"
    for split, counts in {"train": (9, 6), "val": (2, 2), "test": (3, 3)}.items():
        write_images(root / split, dict(zip(("moth", "newt"), counts, strict=True)))
    for number in range(2):
        shutil.copy(root / f"train/moth/00{number}.png", root / f"test/newt/copy{number}.png")
    options = ("--model", f"local-dir:{tiny_clip}", "--threads", 1, "--json")
    for _ in range(2):  # a cache that is there says it, too
        status, out, err = call("extract", root, "--out", tmp_path / "cache", *options)
        assert status == 0 and err.count(SAID) == 1
        shared = json.loads(out)["shared"]
        assert [(one["count"], one["split"], one["other"]) for one in shared] == [
            (2, "test", "train")
        ]
    return tmp_path / "cache"


def test_every_use_of_both_splits_says_it_once(call: Call, cache: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for command in (
        ("zero-shot", cache),
        ("fit-adapter", cache, *FEW, "--out", run),
        ("fit-adapter", cache, *FEW, "--out", tmp_path / "seeds", "--seeds", 2),
        ("evaluate", run),
        ("evaluate", tmp_path / "seeds"),
    ):
        status, out, err = call(*command)
        assert status == 0 and SAID not in out, command
        assert err.count(SAID) == 1, command
        assert f"ltcache inspect {cache} --checks" in err, command
    for command in (("zero-shot", cache, "--split", "val"), ("evaluate", run, "--split", "val")):
        status, _, err = call(*command)
        assert (status, err) == (0, ""), command
    assert "2 images are in two splits (the same bytes)" in call("inspect", cache, "--checks")[1]


def test_an_ablation_notes_it_once(call: Call, cache: Path, tmp_path: Path) -> None:
    command = ("ablate", cache, "--methods", "ncm,gda", "--seeds", 1, "--workers", 1)
    for _ in range(2):  # the second time all runs are there
        status, out, _ = call(*command, "--out", tmp_path / "ablation")
        assert status == 0
        assert out.count("note: identical images stand in two splits") == 1


def test_digests_are_compared_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_cache(cache)
    found = opened.shared_content
    monkeypatch.setattr("ltcache.cache.reader.shared_content", None)
    assert opened.shared_content is found and len(found) == 1
