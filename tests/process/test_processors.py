"""How many processors there are to use, as containers say it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ltcache.process import processors
from ltcache.process.processors import processor_quota, usable_processors


def second_version(root: Path, text: str) -> Path:
    (root / "cpu.max").write_text(text)
    return root


def first_version(root: Path, quota: int, period: int = 100_000) -> Path:
    (root / "cpu").mkdir()
    (root / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (root / "cpu" / "cpu.cfs_period_us").write_text(f"{period}\n")
    return root


@pytest.mark.parametrize(
    ("text", "expected"),
    [("200000 100000\n", 2.0), ("50000 100000\n", 0.5), ("max 100000\n", None), ("", None)],
)
def test_quota_of_control_groups_of_version_two(
    tmp_path: Path, text: str, expected: float | None
) -> None:
    assert processor_quota(second_version(tmp_path, text)) == expected


@pytest.mark.parametrize(("quota", "expected"), [(150_000, 1.5), (-1, None)])
def test_quota_of_control_groups_of_version_one(
    tmp_path: Path, quota: int, expected: float | None
) -> None:
    assert processor_quota(first_version(tmp_path, quota)) == expected


def test_no_control_groups_no_quota(tmp_path: Path) -> None:
    assert processor_quota(tmp_path / "none") is None


@pytest.mark.parametrize(("quota", "expected"), [(None, 8), (3.2, 4), (0.1, 1), (64.0, 8)])
def test_processors_are_those_allowed_and_paid_for(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(processors, "processor_quota", lambda: quota)
    assert usable_processors() == expected


def test_where_there_is_no_affinity_the_machine_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    monkeypatch.setattr(processors, "processor_quota", lambda: None)
    assert usable_processors() == 1
