"""A process that was stopped and goes on after others have finished leaves their cache alone."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ltcache.cache.verify import verify_files
from ltcache.encoder import Encoder, load_encoder
from ltcache.errors import CacheError
from ltcache.extract import ExtractReport, extract
from ltcache.manifest import Manifest
from ltcache.records import sign_of_life
from tests.extract.kill_driver import child, digests, finished
from tests.extract.test_views import listed

SMALL: dict[str, Any] = {"shard_size": 12, "batch_size": 5, "workers": 1}


@pytest.fixture(scope="module")
def encoder(tiny_clip: Path) -> Encoder:
    return load_encoder(f"local-dir:{tiny_clip}")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is stopped while it finishes a cache is waited for, but not long."""
    monkeypatch.setattr(sign_of_life, "_SILENCE", 0.3)


@pytest.fixture
def images(folder_of_images: Path, tmp_path: Path) -> Path:
    """Return images that may be removed."""
    return Path(shutil.copytree(folder_of_images, tmp_path / "images"))


def overtaken(source: Any, out: Path, others: Callable[[], None], **options: Any) -> ExtractReport:
    """Extract, while others work after the first shard, as if this process had been stopped."""
    calls = []

    def stop(_: object) -> None:
        if not calls:
            calls.append(True)
            others()

    report = extract(source, out, progress=stop, **options)
    assert calls
    return report


def held(out: Path) -> dict[str, str]:
    """Return path -> SHA-256 of what a cache holds, without what the stopped process is at."""
    return {name: sha for name, sha in digests(out).items() if ".tmp-" not in name}


def test_shards_that_others_finished_are_not_written_again(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    out, seen = tmp_path / "cache", {}

    def others() -> None:
        extract(images, out, encoder=encoder, **SMALL)
        seen.update(held(out))
        shutil.rmtree(images)

    report = overtaken(images, out, others, encoder=encoder, **SMALL)
    assert digests(out) == seen
    assert verify_files(out).problems == ()
    assert (report.exit_status, report.rows, report.failed) == (0, 120, 0)
    assert "other processes finished the cache" in report.binding
    assert report.encoded <= 24, "shards that were not written are not counted"


def test_views_that_others_added_are_not_written_again(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    out, seen, views = tmp_path / "cache", {}, ("flip",)
    extract(images, out, encoder=encoder, **SMALL)

    def others() -> None:
        extract(images, out, encoder=encoder, views=views, **SMALL)
        seen.update(held(out))
        shutil.rmtree(images)

    report = overtaken(images, out, others, encoder=encoder, views=views, **SMALL)
    assert digests(out) == seen
    assert verify_files(out).problems == ()
    assert report.exit_status == 0


def test_a_list_that_others_have_given_the_cache_stays(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    out, seen = tmp_path / "cache", {}
    uris = listed(images).rows["uri"].to_pylist()

    def others() -> None:
        extract(listed(images), out, encoder=encoder, **SMALL)
        extract(listed(images, uris[:50]), out, encoder=encoder)
        seen.update(held(out))

    with pytest.raises(CacheError, match="another list; it was left as it is"):
        overtaken(listed(images), out, others, encoder=encoder, **SMALL)
    assert digests(out) == seen


def _stopped_in_a_commit(images: Path, encoder: Encoder, out: Path) -> None:
    """Extract, and stop right before the second shard is flushed to disk."""
    flush, flushed = os.fsync, []

    def fsync(descriptor: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        if "00001.h5" in flushed[-1]:
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # at once
        flush(descriptor)

    os.fsync = fsync
    report = extract(images, out, encoder=encoder, **SMALL)
    assert report.exit_status == 0
    assert "other processes finished the cache" in report.binding


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux' /proc")
def test_a_process_stopped_by_a_signal_leaves_every_byte(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    out = tmp_path / "cache"
    pid = child(lambda: _stopped_in_a_commit(images, encoder, out))
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    extract(images, out, encoder=encoder, **SMALL)
    seen = held(out)
    shutil.rmtree(images)
    os.kill(pid, signal.SIGCONT)
    assert finished(pid)
    assert digests(out) == seen
    assert verify_files(out).problems == ()


def _stopped_before(call: str, name: str, source: Manifest, encoder: Encoder, out: Path) -> None:
    """Extract, and stop right before a file of the second shard appears under a name."""
    original = getattr(os, call)

    def stopping(source: Path, target: Path) -> None:
        if Path(target).name == name:
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # at once
        original(source, target)

    setattr(os, call, stopping)
    report = extract(source, out, encoder=encoder, **SMALL)
    assert "other processes finished the cache" in report.binding


@pytest.mark.parametrize(
    ("call", "name", "failed"),
    [("link", "00001.json", 0), ("replace", "00001.h5", 1), ("link", "cache.json", 1)],
)
def test_a_process_stopped_between_two_steps_of_a_commit_leaves_every_byte(
    images: Path, encoder: Encoder, tmp_path: Path, call: str, name: str, failed: int
) -> None:
    """It has seen a broken image, others see a sound one: the first record of a shard counts."""
    out, broken = tmp_path / "cache", images / listed(images).rows["uri"][15].as_py()
    source = listed(images)
    sound = broken.read_bytes()
    broken.write_bytes(b"no image")
    pid = child(lambda: _stopped_before(call, name, source, encoder, out))
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    broken.write_bytes(sound)
    report = extract(source, out, encoder=encoder, **SMALL)
    assert verify_files(out).problems == ()
    seen = held(out)
    shutil.rmtree(images)
    os.kill(pid, signal.SIGCONT)
    assert finished(pid)
    left = {file: sha for file, sha in digests(out).items() if file in seen}
    assert left == {file: sha for file, sha in seen.items() if "/." not in file}
    assert digests(out) == left
    assert verify_files(out).problems == ()
    assert report.failed == failed
