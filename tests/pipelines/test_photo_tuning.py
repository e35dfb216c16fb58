"""The tunings on photographs: a long tail cut from a list, and the tables of both encoders."""

from __future__ import annotations

import csv
import json
import sys
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import lift, photo_sets, photo_tuning, tunings

COUNTS = {
    "train": {"Fig": 9, "Kiwi": 12, "Leek": 8, "Plum": 20},
    "val": {"Fig": 2, "Kiwi": 2, "Leek": 2},
    "test": {"Fig": 3, "Kiwi": 3, "Leek": 3, "Plum": 3},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a few groceries, of which one class has no validation photograph."""
    place = tmp_path / "data" / "grocery"
    place.mkdir(parents=True)
    names = list(COUNTS["train"])
    rng = np.random.default_rng(0)
    rows = []
    with zipfile.ZipFile(place / "images.zip", "w") as archive:
        for split, counts in COUNTS.items():
            for name, count in counts.items():
                for number in range(count):
                    path = f"{split}/{name}/{number}.jpg"
                    with archive.open(path, "w") as stream:
                        picture = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
                        Image.fromarray(picture).save(stream, "JPEG")
                    rows.append((path, names.index(name), split))
    with (place / "grocery.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("path", "label", "split"), *rows])
    (place / "classes.txt").write_text("\n".join(names) + "\n")
    for name, value in {"TAIL_CLASSES": 3, "TAIL_FROM": 8, "TAIL_TO": 2}.items():
        monkeypatch.setattr(photo_sets, name, value)
    return tmp_path / "data"


def test_the_tail_is_cut_from_classes_with_validation_photographs(
    folder: Path, tmp_path: Path
) -> None:
    file = photo_sets.long_tailed_groceries(folder, tmp_path / "out")
    assert (file.parent / "classes.txt").read_text().split() == ["Kiwi", "Fig", "Leek"]
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    names = ("Kiwi", "Fig", "Leek")
    assert all(row["path"].split("/")[1] == names[int(row["label"])] for row in rows)
    counts = Counter((row["split"], row["label"]) for row in rows)
    assert [counts["train", label] for label in "012"] == [8, 4, 2]
    assert [counts["val", label] for label in "012"] == [2, 2, 2]
    assert [counts["test", label] for label in "012"] == [3, 3, 3]
    assert len({row["path"] for row in rows}) == len(rows)
    before = file.read_text()
    assert photo_sets.long_tailed_groceries(folder, tmp_path / "out").read_text() == before


def test_each_encoder_has_its_table(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tunings, "FROZEN", ("ncm", "lift-lp"))
    monkeypatch.setattr(photo_tuning.finetuned, "LINES", (replace(lift.LIFT, then={}),))
    monkeypatch.setattr(photo_tuning, "LITE0_LINES", photo_tuning.LITE0_LINES[-1:])
    monkeypatch.setattr(photo_tuning, "LITE0", "timm:test_efficientnet")
    monkeypatch.setattr(photo_tuning, "lite0_weights", lambda out: "random:0")
    typed = ["--data", folder, "--out", tmp_path / "out", "--seeds", 1, "--trials", 1,
             "--epochs", 1, "--workers", 1, "--loaders", 0]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["photo_tuning", *map(str, typed)])
    photo_tuning.main()
    printed = capsys.readouterr().out
    expected = {
        "embedded": ["zero-shot", "best frozen head: ", "LIFT"],
        "lite0": ["best frozen head: ", "LIFT"],
    }
    for name, lines in expected.items():
        file = tmp_path / "out" / "tuning" / name / "photo_tuning.json"
        found = [entry["name"] for entry in json.loads(file.read_text())["entries"]]
        assert len(found) == len(lines)
        assert all(one.startswith(line) for one, line in zip(found, lines, strict=True))
        assert f"## {name}" in printed


def test_an_unknown_encoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["photo_tuning", "--data", str(tmp_path), "--encoders", "clip"]
    monkeypatch.setattr(sys, "argv", typed)
    with pytest.raises(SystemExit, match="no such encoder: clip; known: embedded, lite0"):
        photo_tuning.main()
