"""Several processes, full disks and missing permissions."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ltcache.cache import open_cache
from ltcache.cache.cost import read_cost
from ltcache.encoder import load_encoder
from ltcache.extract import extract
from tests.commands import StartedCommand, ltcache, start_ltcache
from tests.extract.kill_driver import digests


def start(images: Path, model: Path, out: Path, *options: object) -> StartedCommand:
    """Start an extraction in a process of its own."""
    words = ["--model", f"local-dir:{model}", "--threads", 1, "--shard-size", 4, *options]
    return start_ltcache("extract", images, "--out", out, *words)


def finish(command: StartedCommand) -> tuple[int, str]:
    """Return a process' status and what it wrote to stderr."""
    ended = command.finish()
    return ended.returncode, ended.stderr


def with_a_limit(bytes_of_a_file: int, *arguments: str) -> None:
    """Run a command that can write no longer file."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_of_a_file, bytes_of_a_file))
    ltcache(*arguments)


def as_another_user(good: str, bad: str, *arguments: str) -> None:
    """Extract to a place, then as a user without rights to another one.

    The first extraction imports everything, for the other user may not read it.
    """
    with pytest.raises(SystemExit) as end:
        ltcache("extract", *arguments, "--out", good)
    assert end.value.code == 0
    if os.getuid() == 0:
        os.setuid(65534)
    ltcache("extract", *arguments, "--out", bad)


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


def extract_a_part(images: str, model: str, out: str, rank: int, late: bool) -> None:
    """Extract as one of four processes, which begin together, or two a quarter late."""
    torch.set_num_threads(1)
    encoder, place = load_encoder(f"local-dir:{model}"), Path(out)
    submit = encoder.submit

    def slowly(*arguments: Any) -> Any:  # so that all are at work, however they are scheduled
        time.sleep(0.25)
        return submit(*arguments)

    encoder.submit = slowly
    os.fsync = lambda descriptor: None  # takes as long as encoding on a busy disk
    (place.parent / f"ready-{rank}").touch()
    while len(list(place.parent.glob("ready-*"))) < 4:
        time.sleep(0.01)
    while late and len(list(place.glob("views/center/*.json"))) < 6:
        time.sleep(0.01)
    extract(images, out, encoder=encoder, shard_size=5, batch_size=2, workers=1, part=f"{rank}/4")


@pytest.mark.slow
@pytest.mark.parametrize("late", [(), (2, 4)], ids=["all at once", "two late"])
def test_four_processes_share_the_images(
    folder_of_images: Path, tiny_clip: Path, tmp_path: Path, late: tuple[int, ...]
) -> None:
    alone, out = tmp_path / "alone", tmp_path / "four" / "cache"
    encoder = load_encoder(f"local-dir:{tiny_clip}")
    extract(folder_of_images, alone, encoder=encoder, shard_size=5, batch_size=2)
    out.parent.mkdir()
    places = [str(place) for place in (folder_of_images, tiny_clip, out)]
    four = [StartedCommand(extract_a_part, *places, rank, rank in late) for rank in range(1, 5)]
    assert [finish(process) for process in four] == [(0, "")] * 4
    assert digests(out) == digests(alone)
    assert len(list(out.glob("views/center/*.json"))) == 24
    assert read_cost(out)["images"] <= 1.25 * 120
    assert not list(out.rglob(".*"))  # no sign is left


@pytest.mark.slow
def test_two_processes_add_the_same_views_together(
    folder_of_images: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    sizes = ("--batch-size", 2, "--shard-size", 12)
    views = (*sizes, "--views", "flip,rrc:2,cmo:2")
    assert finish(start(folder_of_images, tiny_clip, tmp_path / "alone", *views))[0] == 0
    out = tmp_path / "both"
    assert finish(start(folder_of_images, tiny_clip, out, *sizes))[0] == 0
    both = [start(folder_of_images, tiny_clip, out, *views) for _ in range(2)]
    assert [status for status, _ in map(finish, both)] == [0, 0]
    for folder in ("center", "flip", "rrc-2", "cmo-2"):
        found, expected = (
            {n: sha for n, sha in digests(tmp_path / w).items() if n.startswith(f"views/{folder}/")}
            for w in ("both", "alone")
        )
        assert found == expected
    assert set(open_cache(out).views) == {"center", "flip", "rrc:2", "cmo:2"}


@pytest.mark.slow
def test_a_process_with_another_plan_is_refused(
    folder_of_images: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cache"
    first = start(folder_of_images, tiny_clip, out, "--batch-size", 2)
    while not (out / "plans" / "0001.json").exists():
        assert first.running
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
    words = ["extract", folder_of_images, "--out", out, "--model", f"local-dir:{tiny_clip}"]
    words += ["--threads", 1, "--shard-size", 60]
    limited = StartedCommand(with_a_limit, 3000, *map(str, words)).finish()
    assert limited.returncode == 1
    assert "Traceback" not in limited.stderr
    assert "00000.h5: File too large" in limited.stderr
    assert not list(out.rglob(".*.tmp-*"))
    assert finish(start(folder_of_images, tiny_clip, out, "--shard-size", 60))[0] == 0
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.slow
def test_no_permission_is_one_message(few_images: Path, tiny_clip: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o500)
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    words = [tmp_path / "good", closed / "cache", few_images]
    words += ["--model", f"local-dir:{tiny_clip}", "--threads", 1]
    result = StartedCommand(as_another_user, *map(str, words)).finish()
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "Permission denied" in result.stderr
