"""``--label-column`` on the commands that read a source."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import Call, write_images


def test_the_column_of_the_labels_is_chosen(tmp_path: Path, call: Call) -> None:
    write_images(tmp_path, {"x": 4})
    paths = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    rows = [f"{path};{k % 2};{('fox', 'crow')[k % 2]}" for k, path in enumerate(paths)]
    (tmp_path / "train.csv").write_text("path;side;species\n" + "\n".join(rows) + "\n", "utf-8-sig")
    source = str(tmp_path / "train.csv")
    _, unsaid, _ = call("inspect", source)
    assert "among side, species: its rows are unlabelled; --label-column" in unsaid
    _, told, _ = call("inspect", source, "--label-column", "species", "--json")
    assert json.loads(told)["num_classes"] == 2
    out = tmp_path / "cache"
    assert call("extract", source, "--out", out, "--label-column", "species")[0] == 0
    status, same, _ = call("diff", out, source, "--label-column", "species", "--json")
    assert status == 0 and json.loads(same)["same"]
    status, _, wrong = call("bench", source, "--label-column", "breed")
    assert status == 1 and "no column 'breed' to take labels from" in wrong
