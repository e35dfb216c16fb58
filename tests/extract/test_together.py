"""Several processes, full disks and missing permissions."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ltcache.cache import open_cache
from ltcache.cache.cost import read_cost
from tests.extract.kill_driver import digests

COMMAND = str(Path(sys.executable).parent / "ltcache")


def start(images: Path, model: Path, out: Path, *options: object) -> subprocess.Popen[str]:
    """Start an extraction by the installed command."""
    words = ["--model", f"local-dir:{model}", "--threads", "1", "--shard-size", "4", *options]
    return subprocess.Popen(
        [COMMAND, "extract", str(images), "--out", str(out), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return a process' status and what it wrote to stderr."""
    _, err = process.communicate()
    return process.returncode, err


@pytest.mark.slow
def test_two_processes_finish_one_cache_together(
    folder_of_images: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    alone = finish(start(folder_of_images, tiny_clip, tmp_path / "alone", "--batch-size", 2))
    assert alone[0] == 0
    both = [
        start(folder_of_images, tiny_clip, tmp_path / "both", "--batch-size", 2) for _ in range(2)
    ]
    assert [status for status, _ in map(finish, both)] == [0, 0]
    assert digests(tmp_path / "both") == digests(tmp_path / "alone")
    assert read_cost(tmp_path / "both")["images"] < 2 * read_cost(tmp_path / "alone")["images"]


@pytest.mark.slow
def test_two_processes_add_the_same_views_together(
    folder_of_images: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    views = ("--batch-size", 2, "--views", "flip,rrc:2")
    assert finish(start(folder_of_images, tiny_clip, tmp_path / "alone", *views))[0] == 0
    out = tmp_path / "both"
    assert finish(start(folder_of_images, tiny_clip, out, "--batch-size", 2))[0] == 0
    both = [start(folder_of_images, tiny_clip, out, *views) for _ in range(2)]
    assert [status for status, _ in map(finish, both)] == [0, 0]
    for folder in ("center", "flip", "rrc-2"):
        found, expected = (
            {n: sha for n, sha in digests(tmp_path / w).items() if n.startswith(f"views/{folder}/")}
            for w in ("both", "alone")
        )
        assert found == expected
    assert set(open_cache(out).views) == {"center", "flip", "rrc:2"}


@pytest.mark.slow
def test_a_process_with_another_plan_is_refused(
    folder_of_images: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cache"
    first = start(folder_of_images, tiny_clip, out, "--batch-size", 2)
    while not (out / "plans" / "0001.json").exists():
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGINT)
    status, err = finish(first)
    if status != 0:  # else it was quicker than the signal
        assert status == 130
        assert "goes on where this one stopped" in err
        status, err = finish(start(folder_of_images, tiny_clip, out, "--batch-size", 3))
        assert status == 4
        assert "micro_batch: expected 2, found 3" in err
    assert finish(start(folder_of_images, tiny_clip, out))[0] == 0
    assert len(open_cache(out).rows()) == 120


@pytest.mark.slow
def test_a_full_disk_is_one_message_and_resumable(
    folder_of_images: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cache"
    code = (
        "import resource, signal, sys\n"
        "from ltcache.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "main(sys.argv[1:])\n"
    )
    words = ["extract", folder_of_images, "--out", out, "--model", f"local-dir:{tiny_clip}"]
    words += ["--threads", 1, "--shard-size", 60]
    limited = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert limited.returncode == 1
    assert "Traceback" not in limited.stderr
    assert "00000.h5: File too large" in limited.stderr
    assert not list(out.rglob(".*.tmp-*"))
    assert finish(start(folder_of_images, tiny_clip, out, "--shard-size", 60))[0] == 0
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.slow
def test_no_permission_is_one_message(
    folder_of_images: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o500)
    code = (  # the first extraction imports everything, for the other user may not read it
        "import os, sys\n"
        "from ltcache.cli import main\n"
        "good, bad = sys.argv[1:3]\n"
        "try: main(['extract', *sys.argv[3:], '--out', good])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "main(['extract', *sys.argv[3:], '--out', bad])\n"
    )
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    words = [tmp_path / "good", closed / "cache", folder_of_images]
    words += ["--model", f"local-dir:{tiny_clip}", "--threads", 1]
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "Permission denied" in result.stderr
