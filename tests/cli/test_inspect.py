"""What a list holds, before anything is trained: classes, sizes, copies, and what is not known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ltcache.cli.class_sizes import class_lines
from ltcache.examine.inspection import ClassSizes
from tests.cli.small_caches import write_cache
from tests.conftest import Call, write_images


def sizes_of(counts: list[int]) -> list[ClassSizes]:
    return [
        ClassSizes(n, f"class {n}", {"train": count, "test": 1}) for n, count in enumerate(counts)
    ]


def test_few_classes_are_all_shown_and_many_by_their_ends() -> None:
    lines = class_lines(sizes_of([3, 40, 7]), "train")
    assert [line.split("|")[1].strip() for line in lines[2:5]] == ["class 1", "class 2", "class 0"]
    assert lines[2].split("|")[3:5] == ["    40 ", "    1 "]
    lines = class_lines(sizes_of([100 - n for n in range(50)]), "train")
    names = [line.split("|")[1].strip() for line in lines if line.startswith("|")][2:]
    assert names == [
        *(f"class {n}" for n in range(10)),
        "... 30 more (--json)",
        *(f"class {n}" for n in range(40, 50)),
    ]
    assert class_lines(sizes_of([3]), None) == []


def test_the_histogram_counts_every_class_once() -> None:
    counts = [0, 1, 1, 2, 4, 5, 9, 10, 19, 20, 5000]
    lines = class_lines(sizes_of(counts), "train")
    bars = lines[lines.index("classes by their images in train:") + 1 :]
    found = {line.split()[0]: int(line.split()[-1]) for line in bars}
    assert sum(found.values()) == len(counts)
    assert (found["0"], found["1"], found["2-4"], found["5-9"], found["10-19"]) == (1, 2, 2, 2, 2)
    assert found["5000-9999"] == 1 and found["200-499"] == 0
    assert max(line.count("#") for line in bars) == 40


def test_copies_in_two_splits_are_found_in_a_folder_and_in_a_cache(
    call: Call, tiny_clip: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    for split in ("train", "test"):
        write_images(photos / split, {"moth": 4, "newt": 3})
    assert "no images are others byte for byte" in call("inspect", photos, "--checks")[1]
    shutil.copy(photos / "train/moth/000.png", photos / "test/moth/again.png")
    assert "copies" not in call("inspect", photos)[1]  # nothing is read unless it is asked for
    told = "identical images stand in two splits: 1 image of test in train (test/moth/again.png is"
    out = call("inspect", photos, "--checks")[1]
    assert told in out and "copies:  1 images" in out
    model = ("--model", f"local-dir:{tiny_clip}")
    status, _, err = call("extract", photos, "--out", tmp_path / "cache", *model)
    assert status == 0 and told in err
    assert told in call("inspect", tmp_path / "cache")[1]
    summary = json.loads(call("inspect", tmp_path / "cache", "--json")[1])
    assert summary["classes"][0] == {
        "label": 0, "name": "moth", "counts": {"train": 4, "test": 5},
    }  # fmt: skip
    assert summary["shared"][0]["count"] == summary["copies"] == 1


@pytest.mark.parametrize("split", ["val", "test"])
def test_groups_are_unknown_without_a_training_split(
    call: Call, tmp_path: Path, split: str
) -> None:
    cache = write_cache(tmp_path / "cache", {split: (3, 3, 3, 3)})
    out = call("inspect", cache)[1]
    assert "groups:  unknown, since there is no training split to count on" in out
    assert "few 4 classes" not in out
    assert f"counted on {split}" in out
    assert json.loads(call("inspect", cache, "--json")[1])["groups"] is None


def test_hints_are_typed_as_a_person_types_them(call: Call, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("path,label\na/1.jpg,a\n")
    out = call("inspect", tmp_path / "train.csv", "--root", tmp_path)[1]
    assert "--root" in out and "root=" not in out
