"""Memory that batches free is kept, where the C library can and nobody says otherwise."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ltcache.cli import main
from ltcache.evaluate.prediction import predict
from ltcache.examine.bench import bench
from ltcache.extract import extract
from ltcache.finetune import finetune
from ltcache.fit import fit_head, fit_many
from ltcache.process import allocation
from ltcache.process.allocation import KEPT, MMAP_THRESHOLD, keep_freed_memory

FAULTS = """
import ctypes, resource, sys, threading
from ltcache.process.allocation import give_back_freed_memory, keep_freed_memory
done = keep_freed_memory() if sys.argv[1] == "kept" else False
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
size = int(sys.argv[2]) << 20

def batch():
    blocks = [libc.malloc(size) for _ in range(3)]
    for block in blocks:
        libc.memset(block, 1, size)
    for block in blocks:
        libc.free(block)

def batches(count):
    for _ in range(count):
        batch()

def in_thread(count):
    thread = threading.Thread(target=batches, args=(count,))
    thread.start()
    thread.join()

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() >> 20

run = in_thread if sys.argv[3] == "thread" else batches
run(2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
run(10)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
held = resident()
give_back_freed_memory()
print(done, faults, held - resident())
"""


def without_malloc_settings() -> dict[str, str]:
    return {n: v for n, v in os.environ.items() if not n.startswith(("MALLOC_", "GLIBC_"))}


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    keep_freed_memory.cache_clear()
    yield
    keep_freed_memory.cache_clear()


def batches(how: str, megabytes: int, where: str) -> tuple[bool, int, int]:
    """Whether memory is kept, page faults of ten batches, and megabytes given back after them."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how, str(megabytes), where],
        env=without_malloc_settings(),
        capture_output=True,
        text=True,
        check=True,
    )
    kept, faults, given_back = done.stdout.split()
    return kept == "True", int(faults), int(given_back)


@pytest.mark.skipif(sys.platform != "linux", reason="the C library has no mallopt")
@pytest.mark.parametrize("where", ["process", "thread"])
@pytest.mark.parametrize("megabytes", [20, 80])
def test_batches_take_the_same_pages_again(megabytes: int, where: str) -> None:
    kept, few, given_back = batches("kept", megabytes, where)
    if not kept:
        pytest.skip("the C library is not glibc")
    _, many, _ = batches("given back", megabytes, where)
    assert few < 200 < 10 * 200 < many
    assert given_back > 2 * megabytes


@pytest.mark.parametrize(
    "users", [{"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": "glibc.malloc.top_pad=0"}]
)
def test_a_users_own_setting_wins(monkeypatch: pytest.MonkeyPatch, users: dict[str, str]) -> None:
    for name, value in users.items():
        monkeypatch.setenv(name, value)
    assert not keep_freed_memory()


@pytest.mark.parametrize("error", [ValueError("unrecognized name"), OSError(22, "invalid")])
def test_nothing_is_done_without_glibc(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def unknown(name: str) -> str:
        raise error

    monkeypatch.setattr(os, "confstr", unknown)
    assert not keep_freed_memory()


def test_an_older_glibc_keeps_the_largest_blocks_that_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: dict[int, int] = {}

    class OlderLibrary:
        def mallopt(self, parameter: int, size: int) -> int:
            if parameter == MMAP_THRESHOLD and size > 32 << 20:
                return 0
            taken[parameter] = size
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda _: OlderLibrary())
    monkeypatch.setattr(allocation, "_is_glibc", lambda: True)
    monkeypatch.setattr(allocation, "_set_by_user", lambda: False)
    assert keep_freed_memory()
    assert taken == {**KEPT, MMAP_THRESHOLD: 32 << 20}


WORK: dict[str, Callable[[Any], Any]] = {
    "cli": lambda here: main(["--help"]),  # before there are threads
    "extract.extraction": lambda here: extract(here, here),
    "finetune.finetuning": lambda here: finetune(here, "lift", here),
    "fit.head": lambda here: fit_head(here, here, here),
    "fit.many": lambda here: fit_many([], here, here),
    "examine.bench": lambda here: bench(here),
    "evaluate.prediction": lambda here: predict(here, []),
}


class Asked(Exception):
    """Memory is going to be kept."""


@pytest.mark.parametrize("module", WORK)
def test_long_work_begins_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    def ask() -> bool:
        raise Asked

    monkeypatch.setattr(import_module(f"ltcache.{module}"), "keep_freed_memory", ask)
    with pytest.raises(Asked):
        WORK[module](tmp_path)


def test_extraction_gives_back_what_it_kept(
    few_images: Path, tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished: list[bool] = []

    def give_back() -> None:
        finished.append((tmp_path / "cache" / "cache.json").exists())

    monkeypatch.setattr("ltcache.extract.extraction.give_back_freed_memory", give_back)
    extract(few_images, tmp_path / "cache", model=f"local-dir:{tiny_clip}", device="cpu")
    assert finished == [True]
