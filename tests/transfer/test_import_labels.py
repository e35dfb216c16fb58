"""What an import makes of labels, class names and splits, in every form in which they come."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ltcache.cache import open_cache
from ltcache.errors import IdentityError, ManifestError, UsageError
from ltcache.transfer import import_features
from ltcache.zero_shot import zero_shot

NUM_CLASSES = 12  # more than ten, so that words and numbers sort differently
LABELS = np.repeat(np.arange(NUM_CLASSES), 2)
MEANS = np.random.default_rng(0).normal(size=(NUM_CLASSES, 16)).astype(np.float32)


@pytest.fixture
def features(tmp_path: Path) -> Path:
    np.save(tmp_path / "f.npy", MEANS[LABELS])
    return tmp_path / "f.npy"


def _imported(features: Path, out: str = "c", **options: Any) -> Any:
    report = import_features(features, features.parent / out, **options)
    return open_cache(report.path), report


def _as_text(path: Path, values: Any, begin: str = "") -> Path:
    path.write_text(begin + "".join(f"{value}\n" for value in values), encoding="utf-8")
    return path


@pytest.mark.parametrize("form", ["text", "bom", "array", "bytes", "list"])
def test_whole_numbers_in_text_are_numbers(features: Path, tmp_path: Path, form: str) -> None:
    forms: dict[str, Any] = {
        "text": _as_text(tmp_path / "text.txt", LABELS),
        "bom": _as_text(tmp_path / "bom.txt", LABELS, "\ufeff"),
        "array": LABELS.astype(str),
        "bytes": LABELS.astype("S"),
        "list": [str(label) for label in LABELS],
    }
    cache, _ = _imported(features, labels=forms[form], text=MEANS, split="test", logit_scale=100)
    assert cache.labels().tolist() == LABELS.tolist()
    assert zero_shot(cache).metrics.overall == 1


def test_names_sort_naturally_and_beside_class_texts_need_the_class_list(
    features: Path, tmp_path: Path
) -> None:
    names = [f"class_{label}" for label in LABELS]
    labels = _as_text(tmp_path / "labels.txt", names, "\ufeff")
    cache, _ = _imported(features, labels=labels)
    assert cache.classes.names == tuple(f"class {label}" for label in range(NUM_CLASSES))
    with pytest.raises(UsageError, match="in which order the class texts stand.*--classes"):
        _imported(features, "d", labels=labels, text=MEANS)
    order = np.random.default_rng(1).permutation(NUM_CLASSES)
    classes = _as_text(tmp_path / "names.txt", [f"class_{label}" for label in order])
    cache, _ = _imported(
        features, "d", labels=labels, text=MEANS[order], classes=classes, split="test"
    )
    assert zero_shot(cache).metrics.overall == 1


def test_bytes_are_decoded(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "f.npz",
        features=MEANS[LABELS],
        labels=np.array([b"cat", b"dog"] * NUM_CLASSES),
        classes=np.array([b"dog", b"cat"]),
    )
    cache, _ = _imported(tmp_path / "f.npz")
    assert cache.classes.names == ("dog", "cat")
    assert cache.labels().tolist() == [1, 0] * NUM_CLASSES


def test_only_a_null_is_null_and_a_class_called_none_keeps_its_rows(
    features: Path, tmp_path: Path
) -> None:
    names = ["None", "cat", ""] * 8
    cache, report = _imported(features, labels=_as_text(tmp_path / "labels.txt", names))
    assert cache.classes.names == ("None", "cat")
    assert cache.labels().tolist() == [0, 1, -1] * 8
    assert "'None' are taken as the name of a class" in report.notes[0]
    cache, _ = _imported(features, "d", labels=np.array([None, "cat", "None"] * 8, dtype=object))
    assert cache.labels().tolist() == [-1, 1, 0] * 8


def test_words_for_a_missing_value_among_numbers(features: Path, tmp_path: Path) -> None:
    labels = _as_text(tmp_path / "labels.txt", ["0", "nan", "2"] * 8)
    cache, report = _imported(features, labels=labels)
    assert cache.labels().tolist() == [0, -1, 2] * 8 and len(cache.classes) == 3
    assert "8 label(s) 'nan' are taken as missing" in report.notes[0]
    torch.save({"features": torch.from_numpy(MEANS[LABELS]), "labels": [0, None, 2] * 8},
               tmp_path / "f.pt")  # fmt: skip
    cache, _ = _imported(tmp_path / "f.pt", "d")
    assert cache.labels().tolist() == [0, -1, 2] * 8


def test_labels_may_be_source_ids_of_the_class_list(features: Path, tmp_path: Path) -> None:
    classes = _as_text(tmp_path / "names.txt", ["n01440764 tench", "n01443537 goldfish"])
    labels = np.array(["n01443537", "n01440764"] * NUM_CLASSES)
    cache, _ = _imported(features, labels=labels, classes=classes)
    assert cache.labels().tolist() == [1, 0] * NUM_CLASSES
    assert cache.classes.names == ("tench", "goldfish")


def test_fold_numbers_are_names_of_splits(features: Path, tmp_path: Path) -> None:
    folds = np.array([0, 1, 2] * 8)
    text = _as_text(tmp_path / "folds.txt", folds, "\ufeff")
    forms: list[Any] = [folds, folds.astype(float), folds.astype("S"), text]
    for number, splits in enumerate(forms):
        cache, _ = _imported(features, f"c{number}", labels=LABELS, splits=splits)
        assert cache.splits == ("0", "1", "2")
    with pytest.raises(ManifestError, match=r"row 2: the split '../x' is not a name"):
        _imported(features, "d", splits=["train", "../x"] * NUM_CLASSES)
    with pytest.raises(ManifestError, match=r"splits line 2: the column 'splits' is empty"):
        _imported(features, "d", splits=["train", None] * NUM_CLASSES)


def test_splits_by_their_other_names(features: Path, tmp_path: Path) -> None:
    cache, _ = _imported(features, splits=["Training", "valid", "test_set"] * 8)
    assert cache.splits == ("train", "val", "test")
    cache, _ = _imported(features, "d", split="validation")
    assert cache.splits == ("val",)
    np.savez(
        tmp_path / "n.npz",
        training_features=MEANS[LABELS], training_labels=LABELS,
        valid_set_features=MEANS, y_dev=np.arange(NUM_CLASSES),
        testX=MEANS, testing_y=np.arange(NUM_CLASSES),
    )  # fmt: skip
    cache, report = _imported(tmp_path / "n.npz", "e")
    assert dict(report.rows) == {"train": 24, "val": 12, "test": 12}
    assert (cache.labels() >= 0).all() and report.notes == ()


def test_two_arrays_for_one_thing_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "arrays"
    folder.mkdir()
    np.save(folder / "val_features.npy", MEANS)
    np.save(folder / "valid_features.npy", MEANS)
    with pytest.raises(UsageError, match="both the features of val; move one away"):
        _imported(folder)


def test_what_is_no_split_of_the_vocabulary_is_said(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=MEANS, holdout_features=MEANS)
    _, report = _imported(tmp_path / "a.npz")
    assert report.notes == ("a.npz: 'holdout_features' was not taken over",)


def test_labels_of_rows_that_are_not_there_are_refused(tmp_path: Path) -> None:
    for name, labels in (("train_features", "labels"), ("features", "train_labels")):
        np.savez(tmp_path / "a.npz", **{name: MEANS[LABELS], labels: LABELS})
        with pytest.raises(UsageError, match=f"'{labels}' in a.npz is the labels of.*name both"):
            _imported(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ([f"{row}.png" for row in range(23)], r"there are \(23,\) for 24 rows"),
        (["a.png", "a.png", *(f"{row}.png" for row in range(22))], "'a.png' names more than one"),
        (["", *(f"{row}.png" for row in range(23))], "some are empty"),
    ],
)
def test_names_that_cannot_be_taken_are_said(keys: list[str], reason: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=MEANS[LABELS], labels=LABELS, keys=np.array(keys))
    cache, report = _imported(tmp_path / "a.npz")
    assert cache.manifest.rows["key"][0].as_py() == "train/00000000"
    (note,) = report.notes
    assert re.search(reason, note)


def test_a_list_in_another_order_than_the_names_is_refused(tmp_path: Path) -> None:
    names = [f"{row}.png" for row in range(len(LABELS))]
    np.savez(tmp_path / "a.npz", features=MEANS[LABELS], keys=np.array(names))
    lines = [f"{name},class {label}" for name, label in zip(names, LABELS, strict=True)]
    for out, order in (("c", lines), ("d", lines[::-1])):
        listed = tmp_path / f"{out}.csv"
        listed.write_text("\n".join(["path,label", *order]))
        if out == "c":
            assert _imported(tmp_path / "a.npz", out, manifest=listed)[1].rows == {"train": 24}
            continue
        with pytest.raises(UsageError, match="row 1 of the features is '0.png', which is row 24"):
            _imported(tmp_path / "a.npz", out, manifest=listed)


def test_other_texts_or_another_scale_in_a_finished_cache_are_refused(features: Path) -> None:
    named: dict[str, Any] = {"labels": LABELS, "text": MEANS}
    _imported(features, logit_scale=100, **named)
    _imported(features, logit_scale=100, **named)
    with pytest.raises(IdentityError, match="(?s)logit_scale.*choose another --out"):
        _imported(features, logit_scale=1, **named)
    first = features.parent / "c"
    _imported(features, "d", encoder_of=first, **named)
    with pytest.raises(IdentityError, match="(?s)texts.*choose another --out"):
        _imported(features, "d", encoder_of=first, labels=LABELS, text=MEANS[::-1])
    with pytest.raises(UsageError, match="no effect beside encoder_of"):
        _imported(features, "e", encoder_of=first, logit_scale=1, **named)
