"""Compute threads sleep while they wait, unless the user says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ltcache.process.openmp import POLICY, SETTINGS, spin_briefly, wait_asleep


def environment(**more: str) -> dict[str, str]:
    """Return the environment without a word on how threads wait."""
    return {name: value for name, value in os.environ.items() if name not in SETTINGS} | more


def run(code: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment(**more),
        capture_output=True,
        text=True,
        check=True,
    )


def test_the_command_line_sets_it_before_torch_reads_it() -> None:
    code = "from ltcache.cli import main; main(['methods', 'ce'])"
    seen = run("import torch", OMP_DISPLAY_ENV="verbose").stderr
    if POLICY not in seen:
        pytest.skip("torch's compute threads are not OpenMP's here")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in run(code, OMP_DISPLAY_ENV="verbose").stderr


@pytest.mark.parametrize(
    ("users", "expected"),
    [({}, "passive"), ({POLICY: "active"}, "active"), ({"GOMP_SPINCOUNT": "1000"}, "None")],
)
def test_a_users_own_setting_wins(users: dict[str, str], expected: str) -> None:
    code = (
        "import atexit, os, sys\n"
        f"atexit.register(lambda: print(os.environ.get('{POLICY}'), 'torch' in sys.modules))\n"
        "from ltcache.cli import main\n"
        "main(['--version'])\n"
    )
    assert run(code, **users).stdout.splitlines()[-1] == f"{expected} False"


def test_nothing_is_set_that_torch_would_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    wait_asleep()  # torch is imported
    assert POLICY not in os.environ


def test_a_second_team_would_not_overrule_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    monkeypatch.setattr("torch.get_num_threads", lambda: started.append(1) or 1)
    monkeypatch.setenv(POLICY, "active")
    spin_briefly()
    assert not started
    monkeypatch.delenv(POLICY)
    spin_briefly()
    assert started
