"""No kill at any moment costs more than the shard in work, nor leaves a cache that lies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ltcache.cache import open_cache
from ltcache.errors import CacheError
from tests.conftest import PATIENCE, Call
from tests.extract.kill_driver import digests, kill_after


def outcomes(mode: str, images: Path, model: Path, work: Path, count: int) -> list[dict[str, bool]]:
    arguments = [mode, str(images), str(model), str(work), str(count)]
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.extract.kill_driver", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.slow
def test_killed_at_30_random_moments(few_images: Path, tiny_clip: Path, tmp_path: Path) -> None:
    results = outcomes("random", few_images, tiny_clip, tmp_path, 30)
    assert len(results) == 30
    assert not any(result["opened_incomplete"] for result in results)
    assert all(result["resumed"] and result["equal"] for result in results)
    assert sum(result["partial"] for result in results) >= 3, "the kills missed the work"


@pytest.mark.slow
def test_killed_at_every_step_of_the_commits(
    few_images: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    results = outcomes("steps", few_images, tiny_clip, tmp_path, 1)
    assert len(results) > 50
    assert not any(result["opened_incomplete"] for result in results)
    assert all(result["resumed"] and result["equal"] for result in results)


@pytest.mark.slow
def test_killed_while_views_are_added(few_images: Path, tiny_clip: Path, tmp_path: Path) -> None:
    results = outcomes("views", few_images, tiny_clip, tmp_path, 12)
    assert len(results) == 12
    for name in ("all_or_nothing", "untouched", "resumed", "equal"):
        assert all(result[name] for result in results), name
    assert sum(result["partial"] for result in results) >= 2, "the kills missed the work"


@pytest.mark.slow
def test_the_installed_command_killed_in_its_work(
    few_images: Path, tiny_clip: Path, tmp_path: Path, call: Call
) -> None:
    def words(out: Path) -> list[str]:
        words = ["extract", few_images, "--out", out, "--model", f"local-dir:{tiny_clip}"]
        words += ["--shard-size", 2, "--views", "rrc:8", "--batch-size", 4, "--threads", 1]
        return [str(word) for word in words]

    def start(out: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [str(Path(sys.executable).parent / "ltcache"), *words(out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def killed_in_its_work(out: Path) -> bool:
        """Whether a cache is unfinished; on a busy machine the kill may come when it is whole."""
        try:
            open_cache(out)
        except CacheError:
            return True
        return False

    whole = tmp_path / "whole"
    assert call(*words(whole))[0] == 0
    for attempt in range(10):
        killed = tmp_path / f"killed-{attempt}"
        process = start(killed)
        kill_after(process.pid, killed, records=2, seconds=0.0)
        process.wait()
        if killed_in_its_work(killed):
            break
        assert digests(killed) == digests(whole)
    else:
        pytest.fail("no kill came while the command was at work")
    assert start(killed).wait() == 0
    assert digests(killed) == digests(whole)
