"""Class names that the folders of the images contradict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ltcache.manifest import ClassList, read_manifest
from ltcache.manifest.named_folders import misnamed_classes
from tests.manifest.helpers import write


def _found(paths: list[str], labels: list[int], names: list[str]) -> list[str]:
    uris = pa.chunked_array([pa.array(paths, pa.string())])
    return misnamed_classes(uris, np.array(labels), ClassList.from_raw(names))


def test_a_class_list_in_another_order_is_told_of(tmp_path: Path) -> None:
    write(tmp_path / "names.txt", "sea_lion\ncat\ndog\n")
    write(tmp_path / "a_train.txt", "x/cat/1.jpg 0\nx/sea lion/2.jpg 1\nx/dog/3.jpg 2\n")
    manifest = read_manifest(tmp_path / "a_train.txt", classes=tmp_path / "names.txt")
    assert manifest.warnings == (
        "the class names may be those of other labels: label 0 (sea lion) has images in 'cat', the "
        "name of label 1, label 1 (cat) has images in 'sea lion', the name of label 0",
    )


@pytest.mark.parametrize(
    ("paths", "labels", "names"),
    [
        (["cat/1.jpg", "dog/2.jpg"], [0, 1], ["cat", "dog"]),  # as it should be
        (["train/1.jpg", "train/2.jpg"], [0, 1], ["cat", "train"]),  # a folder of several classes
        (["1/1.jpg", "0/2.jpg"], [0, 1], ["0", "1"]),  # numbers
        (["cat/1.jpg", "dog/2.jpg"], [-1, -1], ["dog", "cat"]),  # no labels
        (["cat.jpg", "dog.jpg"], [1, 0], ["cat", "dog"]),  # no folders
        (["cat/1.jpg", "dog/2.jpg"], [2, 2], ["cat", "cat", "bird"]),  # two classes of one name
        (["cat/1.jpg"] * 30 + ["cat/2.jpg"] * 2, [0] * 30 + [1] * 2, ["dog", "cat"]),  # 6 % others
        ([], [], ["cat"]),
    ],
)
def test_folders_that_say_nothing_against_the_names(
    paths: list[str], labels: list[int], names: list[str]
) -> None:
    assert _found(paths, labels, names) == []


def test_a_few_wrong_labels_do_not_hide_it() -> None:
    paths = ["cat/1.jpg"] * 39 + ["cat/2.jpg"] + ["Dog/1.jpg"]
    found = _found(paths, [0] * 39 + [2] + [1], ["DOG", "Cat", "bird"])
    assert found == [
        "the class names may be those of other labels: label 0 (DOG) has images in 'cat', the name "
        "of label 1, label 1 (Cat) has images in 'Dog', the name of label 0"
    ]


def test_of_long_lists_rows_are_looked_at_that_are_spread_evenly() -> None:
    paths = [f"{'ab'[at // 300_000]}/{at}" for at in range(600_000)]
    labels = [1] * 300_000 + [0] * 300_000
    assert "label 0 (a) has images in 'b'" in _found(paths, labels, ["a", "b"])[0]
