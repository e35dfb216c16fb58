"""The benchmark of a GPU runs at the size of a toy, so that it runs where there is one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks import bench_gpu


@pytest.mark.parametrize("part", bench_gpu.PARTS)
def test_each_part_is_measured(
    part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench_gpu.main(["--toy", "--parts", part, "--out", str(tmp_path / "gpu.json")])
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert record["results"] and record["where"] == "CPU"
    said = capsys.readouterr().out
    for result in record["results"]:
        assert result["what"].startswith(part) and result["rate"] > 0
        assert result["ratios"] and all(ratio > 0 for ratio in result["ratios"].values())
        assert result["what"] in said


def test_a_part_that_fails_leaves_the_others_theirs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> Iterator[bench_gpu.GPUResult]:
        yield bench_gpu.GPUResult("one", "rows", 1.0, {"bound": 1.0})
        raise RuntimeError("CUDA error")

    def works(*_: object) -> Iterator[bench_gpu.GPUResult]:
        yield bench_gpu.GPUResult("two", "rows", 1.0, {"bound": 1.0})

    monkeypatch.setattr(bench_gpu, "PARTS", {"fails": fails, "works": works})
    with pytest.raises(SystemExit):
        bench_gpu.main(["--toy", "--parts", "fails,works", "--out", str(tmp_path / "gpu.json")])
    found = json.loads((tmp_path / "gpu.json").read_text())["results"]
    assert [result["what"] for result in found] == ["one", "two"]
    assert "fails: failed, RuntimeError: CUDA error" in capsys.readouterr().out


def test_what_there_is_no_time_for_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench_gpu.main(["--toy", "--minutes", "-1", "--out", str(tmp_path / "gpu.json")])
    said = capsys.readouterr().out
    assert all(f"{part}: not measured" in said for part in bench_gpu.PARTS)
