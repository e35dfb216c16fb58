"""Caches without the split that a command needs: what is said, and what goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.small_caches import write_cache
from tests.conftest import Call, write_images

TRAIN = (20, 10, 6, 5)
FEW = ("--method", "ce", "-s", "optimisation.epochs=2")


@pytest.fixture
def train_only(tmp_path: Path) -> Path:
    """Return a cache whose images are all of train."""
    return write_cache(tmp_path / "cache", {"train": TRAIN})


def test_without_a_test_split_every_command_names_the_remedy(
    call: Call, train_only: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert call("fit-adapter", train_only, "--method", "ncm", "--out", run)[0] == 0
    for command in (
        ("zero-shot", train_only),
        ("evaluate", run),
        ("ablate", train_only, "--methods", "ncm", "--out", tmp_path / "a"),
        ("ensemble", run, "zero-shot", "--out", tmp_path / "e"),
        ("report", run),
    ):
        status, out, err = call(*command)
        assert status in (1, 2) and out == "", command
        assert "a column `split` in a csv list (path,label,split)" in err, command
        assert "folders train/ and test/ (and val/)" in err, command
    assert "--split train" in call("zero-shot", train_only)[2]
    assert call("zero-shot", train_only, "--split", "train")[0] == 0


def test_a_fit_that_nothing_scores_says_so(call: Call, train_only: Path, tmp_path: Path) -> None:
    for extra in ((), ("--seeds", "2"), ("--json",)):
        status, out, err = call(
            "fit-adapter", train_only, *FEW, "--out", tmp_path / f"run{len(extra)}", *extra
        )
        assert status == 0 and "|" not in out
        assert "not scored: no val or test split was left" in err
        assert "no validation data chose anything" in err
    assert (
        call("fit-adapter", train_only, *FEW, "--out", tmp_path / "again")[1].count("chosen") == 1
    )


def test_a_fit_scored_on_what_chose_it_says_so(call: Call, tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", {"train": TRAIN, "val": (9, 0, 0, 0)})
    status, out, err = call("fit-adapter", cache, *FEW, "--out", tmp_path / "run")
    assert status == 0 and "| ce, val |" in out
    assert "val is also what chose" in err


def test_a_test_split_without_labels(call: Call, tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", {"train": TRAIN, "test": (5,) * 4}, unlabelled=["test"])
    run = tmp_path / "run"
    status, _, err = call("fit-adapter", cache, *FEW, "--out", run)
    assert status == 0 and "not scored: test have no labels" in err
    for command in (
        ("zero-shot", cache),
        ("evaluate", run),
        ("evaluate", run, "--test-prior", "uniform"),
        ("ablate", cache, "--methods", "ncm", "--out", tmp_path / "a"),
    ):
        status, out, err = call(*command)
        assert status in (1, 2) and out == "", command
        assert "none of the 20 images of 'test' has a label" in err, command
        assert "ltcache predict" in err, command


def test_a_training_split_without_labels(call: Call, tmp_path: Path) -> None:
    cache = write_cache(
        tmp_path / "cache", {"train": TRAIN, "test": (5,) * 4}, unlabelled=["train"]
    )
    status, _, err = call("fit-adapter", cache, *FEW, "--out", tmp_path / "run")
    assert status == 1 and "none of the 41 images of 'train' has a label" in err


def test_a_pool_alone_trains_nothing(call: Call, tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", {"pool": TRAIN}, unlabelled=["pool"])
    status, _, err = call("fit-adapter", cache, "--out", tmp_path / "run")
    assert status == 1 and "no split 'train', only pool, whose images have no labels" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("split", "meant"), [("validation", "val"), ("Test", "test"), ("tset", "test"), ("dev", "val")]
)
def test_the_nearest_split_is_named(call: Call, tmp_path: Path, split: str, meant: str) -> None:
    cache = write_cache(tmp_path / "c", {"train": TRAIN, "val": (4,) * 4, "test": (5,) * 4})
    status, _, err = call("zero-shot", cache, "--split", split)
    assert status == 1 and f"did you mean {meant!r}?" in err


def test_an_ablation_without_training_rows_begins_nothing(call: Call, tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", {"test": (5,) * 4})
    status, _, err = call("ablate", cache, "--methods", "ncm", "--out", tmp_path / "a")
    assert status == 2 and "no split 'train', only test; give the images a split" in err
    assert not (tmp_path / "a").exists()


def test_classes_that_train_lacks_are_refused(call: Call, tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "c", {"train": (20, 10, 0, 0), "test": (0, 0, 5, 5)})
    status, _, err = call("fit-adapter", cache, *FEW, "--out", tmp_path / "run")
    assert status == 1 and "2 of 4 classes have no training rows" in err


def test_a_folder_without_splits_reaches_predict_and_takes_splits_later(
    call: Call, tiny_clip: Path, tmp_path: Path
) -> None:
    images = write_images(tmp_path / "images", {"moth": 9, "newt": 6})
    cache, run = tmp_path / "cache", tmp_path / "run"
    model = ("--model", f"local-dir:{tiny_clip}")
    extract = ("--out", cache, *model, "--threads", 1)
    assert call("extract", images, *extract)[0] == 0
    assert call("fit-adapter", cache, *FEW, "--out", run)[0] == 0
    status, out, err = call("predict", run, images / "moth" / "000.png", *model)
    assert status == 0 and "moth" in out, err
    lines = ["path,label,split"]
    for name in ("moth", "newt"):
        lines += [f"{name}/{n:03d}.png,{name},{'test' if n < 2 else 'train'}" for n in range(6)]
    (images / "list.csv").write_text("\n".join(lines) + "\n")
    status, out, err = call("extract", images / "list.csv", "--root", images, *extract)
    assert status == 0, err
    assert "nothing to encode" in out
    assert call("zero-shot", cache)[0] == 0
