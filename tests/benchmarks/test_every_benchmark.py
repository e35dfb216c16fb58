"""Every benchmark runs, at a size at which its numbers mean nothing."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from ltcache.process import threads_of_passes
from tests.conftest import Call, write_images

SMALL = ("--threads", "1", "--clock", "cpu", "--repeats", "1")
RUNS = {
    "ablate": ("--cache", "CACHE", "--methods", "ncm,posthoc-la", "--seeds", "1", "--probes", "0",
               "--repeats", "1"),
    "convex": (*SMALL, "--rows", "60", "--dim", "8", "--classes", "4", "--inverse", "1"),
    "decoders": ("IMAGES", "--images", "4", "--repeats", "1"),
    "experts": ("--repeats", "1", "--rows", "64", "--dim", "8", "--classes", "4",
                "--methods", "ride"),
    "fit": (*SMALL, "--rows", "2100", "--dim", "8", "--classes", "4", "--loader-share", "1"),
    "fit_memory": ("--rows", "2000", "--dim", "8", "--workers", "2"),
    "long_list": ("--rows", "1000"),
    "losses": (*SMALL, "--classes", "40", "--batch", "8", "--dim", "4"),
    "many": (*SMALL, "--rows", "60", "--dim", "8", "--classes", "4", "--runs", "2", "--epochs", "1",
             "--batches", "16", "--cases", "1"),
    "million": ("--rows", "21000", "--dim", "4"),
    "retrieve": (*SMALL, "--rows", "3000", "--dim", "8", "--classes", "70", "--lists", "9", "70",
                 "--data", "clustered"),
    "tune": ("--cache", "CACHE", "--methods", "ce", "--trials", "2", "--folds", "2",
             "--repeats", "1", "--clock", "cpu"),
}  # fmt: skip
ELSEWHERE = {"faults", "wait", "report_page", "gpu"}  # other files of this folder
BIG = {"extract", "finalise", "finetune", "memory", "peers", "start"}
"""What has no small size: its parts are whole encoders, or millions of rows."""


def test_no_benchmark_is_forgotten() -> None:
    there = {path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py")}
    assert there == RUNS.keys() | ELSEWHERE | BIG


@pytest.mark.slow
@pytest.mark.parametrize("name", list(RUNS))
def test_a_benchmark_runs(
    name: str, tmp_path: Path, tiny_clip: Path, call: Call, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    places = {"IMAGES": tmp_path / "images", "CACHE": tmp_path / "cache"}
    words = [str(places.get(word, word)) for word in RUNS[name]]
    if {"IMAGES", "CACHE"} & set(RUNS[name]):
        for split, counts in {"train": (12, 8), "val": (2, 2), "test": (3, 2)}.items():
            write_images(
                tmp_path / "images" / split, dict(zip(("fox", "jay"), counts, strict=True))
            )
        model = f"local-dir:{tiny_clip}"
        assert call("extract", places["IMAGES"], "--out", places["CACHE"], "--model", model)[0] == 0
    benchmark = importlib.import_module(f"tests.benchmarks.bench_{name}")
    monkeypatch.setattr(sys, "argv", [name, *words])
    monkeypatch.setattr(benchmark, "LIMIT", float("inf"), raising=False)  # of speed, at full size
    capsys.readouterr()
    with threads_of_passes(None):  # a benchmark sets them for its process
        assert not benchmark.main()
    assert any(character.isdecimal() for character in capsys.readouterr().out)
