"""The benchmarks of whole commands run, at a size at which their numbers mean nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.benchmarks import bench_faults, bench_report_page, bench_wait, commands
from tests.benchmarks.commands import WORK, Usage, busy, compared, run
from tests.conftest import Call


@pytest.fixture
def toy(
    call: Call, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Mapping[str, str]], list[str]]:
    """Return the settings that commands were run with, and options; commands run in here."""
    seen: list[Mapping[str, str]] = []

    def run_here(command: Sequence[str], settings: Mapping[str, str]) -> Usage:
        status, _, err = call(*command[3:])
        assert status == 0, err
        seen.append(settings)
        return Usage(1.0, 1.0, 1.0, 1, 1.0)

    monkeypatch.setattr(commands, "run", run_here)
    sizes = ("--images", "8", "--size", "16", "--repeats", "1")
    return seen, [*sizes, "--model", f"local-dir:{tiny_clip}"]


def test_faults(toy: tuple[list[Mapping[str, str]], list[str]]) -> None:
    seen, options = toy
    bench_faults.main(options)
    _, *measured = seen
    assert measured == [bench_faults.GIVEN_BACK, bench_faults.KEPT] * len(WORK)


def test_waiting(toy: tuple[list[Mapping[str, str]], list[str]]) -> None:
    seen, options = toy
    bench_wait.main([*options, "--work", "extract", "--burners", "1"])
    _, *measured = seen
    assert measured == [bench_wait.SPINS, bench_wait.SLEEPS] * 2


def test_the_page_of_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_report_page, "PACKAGES", {"no-such-browser": ""})
    bench_report_page.main(["--classes", "4", "--rows", "40", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "4 classes, 40 test images" in printed and "MB (at most 15)" in printed
    assert "not loaded: Chromium is not installed" in printed


def test_a_process_is_measured_beside_others() -> None:
    code = "import os; data = bytearray(b'x' * (20 << 20)); assert os.environ['HOW'] == 'odd'"
    with busy(1):
        usage = run([sys.executable, "-c", code], {"HOW": "odd"})
    assert 0 <= usage.system <= usage.cpu
    assert usage.faults > 1000 and usage.peak > 20
    with pytest.raises(RuntimeError, match="status 3"):
        run([sys.executable, "-c", "raise SystemExit(3)"], {})


def test_ratios_are_of_pairs() -> None:
    pairs = [(Usage(t, t, t, 10, 1.0), Usage(2 * t, t, t, 1, 1.0)) for t in (1.0, 2.0, 8.0)]
    assert compared(pairs).startswith("wall 2 -> 4 (x 2.00), cpu 2 -> 2 (x 1.00)")
    assert "faults 10 -> 1 (x 0.10)" in compared(pairs)
