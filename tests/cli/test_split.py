"""A plain folder of class folders reaches a score on images that nothing was fitted to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.small_caches import write_cache
from tests.conftest import Call, write_images

FEW = ("--method", "ce", "-s", "optimisation.epochs=2")
SPLIT = ("--split", "test=0.2,val=0.1")


def test_from_a_folder_of_class_folders_to_a_score(
    call: Call, tiny_clip: Path, tmp_path: Path
) -> None:
    photos = write_images(tmp_path / "photos", {"moth": 20, "newt": 10, "owl": 1})
    cache, run = tmp_path / "cache", tmp_path / "run"
    model = ("--model", f"local-dir:{tiny_clip}")
    status, out, err = call("extract", photos, "--out", cache, *model, *SPLIT)
    assert status == 0, err
    assert "train 22, val 3, test 6 images (test=0.2,val=0.1 of each class, seed 0" in out
    assert "1 class(es) have no image in test: owl (1 image)" in out
    assert call("zero-shot", cache)[0] == 0
    assert call("fit-adapter", cache, *FEW, "--out", run)[0] == 0
    status, out, err = call("evaluate", run)
    assert status == 0 and "test split, 6 images" in out
    assert err.count("warning") == err.count("ended before it had fitted") == 1  # and no other
    made = json.loads((run / "run.json").read_text())["splitting"]
    assert made["shares"] == {"test": 0.2, "val": 0.1} and made["seed"] == 0
    assert "divided: test=0.2,val=0.1 of each class" in call("inspect", cache)[1]


def test_a_cache_without_splits_is_told_of_the_command_and_divided_by_it(
    call: Call, tmp_path: Path
) -> None:
    cache, run = write_cache(tmp_path / "cache", {"train": (20, 10, 6, 5)}), tmp_path / "run"
    assert call("fit-adapter", cache, *FEW, "--out", run)[0] == 0
    for command in (
        ("zero-shot", cache),
        ("evaluate", run),
        ("ablate", cache, "--methods", "ncm", "--out", tmp_path / "a"),
        ("ensemble", run, "zero-shot", "--out", tmp_path / "e"),
        ("report", run),
    ):
        assert "ltcache split CACHE --split test=0.2,val=0.1" in call(*command)[2], command
    status, out, err = call("split", cache, *SPLIT, "--json")
    assert status == 0, err
    assert json.loads(out)["counts"] == {"train": 28, "val": 5, "test": 8}
    status, _, err = call("evaluate", run)
    assert status == 0 and "were divided into splits after this run was fitted" in err
    status, _, err = call("split", cache, "--split", "test=0.5")
    assert status == 2 and "--replace puts their images back into train" in err
    assert call("split", cache, "--split", "test=0.5", "--replace")[0] == 0


@pytest.mark.parametrize("options", [("--split-seed", "1"), ("--split-by", "unit")])
def test_options_of_a_split_need_one(call: Call, tmp_path: Path, options: tuple[str, ...]) -> None:
    status, _, err = call("extract", tmp_path, "--out", tmp_path / "c", *options)
    assert status == 2 and f"{options[0]} has no effect without --split" in err


def test_a_list_that_divides_anew_with_equal_counts_is_told_of(
    call: Call, tiny_clip: Path, tmp_path: Path
) -> None:
    photos = write_images(tmp_path / "photos", {"moth": 8, "newt": 6})
    names = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.*"))
    cache, run, rows = tmp_path / "cache", tmp_path / "run", tmp_path / "rows.csv"

    def extract(held_out: int) -> None:
        lines = [
            f"{name},{name.split('/')[0]},{'test' if number % 2 == held_out else 'train'}"
            for number, name in enumerate(names)
        ]
        rows.write_text("path,label,split\n" + "\n".join(lines))
        model = ("--model", f"local-dir:{tiny_clip}", "--root", photos)
        status, _, err = call("extract", rows, "--out", cache, *model)
        assert status == 0, err

    extract(0)
    assert call("fit-adapter", cache, *FEW, "--out", run)[0] == 0
    assert "warning" not in call("evaluate", run)[2]
    extract(1)
    status, _, err = call("evaluate", run)
    assert status == 0 and "the test rows of" in err and "its list has changed" in err
    other = tmp_path / "other"
    assert call("fit-adapter", cache, "--method", "ncm", "--out", other)[0] == 0
    status, out, err = call("report", run, other)
    assert status == 2 and "scored on other test rows than most of these runs" in err
    status, out, err = call("report", run)
    assert status == 0 and "other test rows than these runs were scored on" in out + err
