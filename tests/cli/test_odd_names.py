"""Odd file names all the way: extracted, shown, searched, predicted, exported."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pyarrow.parquet as pq

from ltcache.cache import open_cache
from tests.conftest import Call
from tests.images.odd import encoded, picture

NAMES = (
    "a\nb.png", "tab\t.png", "co,mma.png", "qu\"o'te.png", "trailing .png ", "-dash.png", "é.png",
    "back\\slash.png", "<b>&amp;.png", "pi|pe.png", "\x1b[31m.png", "é" * 120 + ".png",
    os.fsdecode(b"caf\xe9.png"),
)  # fmt: skip


def test_odd_names_all_the_way(call: Call, tiny_clip: Path, tmp_path: Path) -> None:
    root, model = tmp_path / "set", ("--model", f"local-dir:{tiny_clip}")
    for k, name in enumerate(NAMES):
        (root / "ant").mkdir(parents=True, exist_ok=True)
        (root / "ant" / name).write_bytes(encoded(picture(24, 24, seed=k)))
    (root / "bee").mkdir()
    (root / "bee" / "1.png").write_bytes(encoded(picture(24, 24, seed=99)))
    (root / "bee" / "2\n.png").write_bytes(b"no image")
    status, _, err = call("extract", root, "--out", tmp_path / "cache", *model)
    assert status == 3 and "  bee/2\\n.png: not an image that Pillow knows\n" in err
    keys = open_cache(tmp_path / "cache").manifest.rows["key"].to_pylist()
    expected = sorted([f"ant/{name}" for name in NAMES[:-1]] + [r"ant/caf\xe9.png"])
    assert sorted(keys) == sorted([*expected, "bee/1.png", "bee/2\n.png"])
    status, out, _ = call("inspect", tmp_path / "cache")
    assert status == 0 and "failed bee/2\\n.png: " in out
    search = ("search", tmp_path / "cache", "--image", root / "ant" / NAMES[0], *model)
    out = call(*search, "--top", "20")[1]
    assert len(out.splitlines()) == 2 + len(NAMES) + 1 and r"a\nb.png" in out
    by_bytes = ("search", tmp_path / "cache", "--image", root / "ant" / NAMES[-1], *model)
    for words in ((*by_bytes, "--top", "20"), ("browse", tmp_path / "cache")):
        status, _, err = call(*words, "--html", tmp_path / "page.html")
        assert status == 0 and f"{len(NAMES) + 1} images" in err and "not shown" not in err
    assert call("export", tmp_path / "cache", "--out", tmp_path / "arrays")[0] == 0
    (rows,) = (tmp_path / "arrays").glob("rows*.parquet")
    assert pq.read_table(rows)["key"].to_pylist() == keys
    fit = ("fit-adapter", tmp_path / "cache", "--method", "ncm", "--out", tmp_path / "run")
    status, _, err = call(*fit)
    assert status == 0, err
    predict = ("predict", tmp_path / "run", root, *model, "--top", "1", "--format")
    status, out, _ = call(*predict, "csv")
    read = [row["image"] for row in csv.DictReader(io.StringIO(out, newline=""))]
    assert status == 3 and sorted(read) == sorted(f"{root}/{key}" for key in keys)
    lines = call(*predict, "jsonl")[1].splitlines()
    assert [json.loads(line)["image"] for line in lines] == read
    assert len(call(*predict, "table")[1].splitlines()) == 2 + len(keys)
