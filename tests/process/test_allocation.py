"""Memory that batches free is kept, where the C library can and nobody says otherwise."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ltcache.cli import main
from ltcache.encoder import EncoderChoice
from ltcache.evaluate.prediction import predict
from ltcache.examine.bench import bench
from ltcache.examine.verify import SampleEncoding, verify
from ltcache.extract import extract
from ltcache.finetune import finetune
from ltcache.fit import fit_adapter, fit_head, fit_many
from ltcache.manifest import read_manifest
from ltcache.process import allocation
from ltcache.process.allocation import (
    KEPT,
    KEPT_OF_TOWERS,
    MMAP_THRESHOLD,
    ONE_HEAP,
    activations_kept,
    keep_freed_memory,
)

FAULTS = """
import ctypes, resource, sys, threading
from contextlib import nullcontext
from ltcache.process.allocation import activations_kept, keep_freed_memory
kept = sys.argv[1] != "given back"
done = keep_freed_memory() if kept else False
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
with activations_kept() if sys.argv[1] == "of towers" else nullcontext():
    run(2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    run(10)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    held = resident()
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
@pytest.mark.parametrize(("how", "megabytes"), [("kept", 20), ("of towers", 20), ("of towers", 80)])
def test_batches_take_the_same_pages_again(how: str, megabytes: int, where: str) -> None:
    kept, few, given_back = batches(how, megabytes, where)
    if not kept:
        pytest.skip("the C library is not glibc")
    _, many, _ = batches("given back", megabytes, where)
    assert few < 200 < 10 * 200 < many
    if how == "of towers":
        assert given_back > 2 * megabytes


@pytest.mark.skipif(sys.platform != "linux", reason="the C library has no mallopt")
def test_arrays_of_a_cache_are_given_back_outside_of_towers() -> None:
    _, faults, _ = batches("kept", 80, "process")
    assert faults > 10 * 200


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
        def malloc_trim(self, left: int) -> int:
            return 0

        def mallopt(self, parameter: int, size: int) -> int:
            if parameter == MMAP_THRESHOLD and size > 32 << 20:
                return 0
            taken[parameter] = size
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda _: OlderLibrary())
    monkeypatch.setattr(allocation, "_is_glibc", lambda: True)
    monkeypatch.setattr(allocation, "_set_by_user", lambda: False)
    with activations_kept():
        assert taken == {**ONE_HEAP, **KEPT_OF_TOWERS, MMAP_THRESHOLD: 32 << 20}
    assert taken == {**ONE_HEAP, **KEPT}


WORK: dict[str, Callable[[Any], Any]] = {
    "cli": lambda here: main(["--help"]),  # before there are threads
    "fit.head": lambda here: fit_head(here, here, here),
    "fit.many": lambda here: fit_many([], here, here),
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


def test_towers_keep_their_activations(
    few_images: Path, tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Mapping[int, int]] = []

    def tell(settings: Mapping[int, int]) -> bool:
        told.append(settings)
        return True

    monkeypatch.setattr(allocation, "_is_glibc", lambda: True)
    monkeypatch.setattr(allocation, "_set_by_user", lambda: False)
    monkeypatch.setattr(allocation, "_told_malloc", tell)
    model, out = f"local-dir:{tiny_clip}", tmp_path / "cache"
    choice, few = EncoderChoice(model, device="cpu"), {"optimisation.epochs": 1}
    extract(few_images, out, model=model, device="cpu")
    assert told == [{**ONE_HEAP, **KEPT}, KEPT_OF_TOWERS, KEPT]
    run = fit_adapter(out, "ce", tmp_path / "run", overrides=few)
    works: list[Callable[[], Any]] = [
        lambda: list(predict(run, [few_images], encoder=choice)),
        lambda: verify(out, sample=SampleEncoding(2, encoder=choice)),
        lambda: bench(read_manifest(few_images), choice, batches=[2]),
        lambda: finetune(
            few_images, "full", tmp_path / "tuned", model=model, device="cpu", workers=0,
            overrides=few,
        ),
    ]  # fmt: skip
    for work in works:
        told.clear()
        work()
        assert told == [KEPT_OF_TOWERS, KEPT]
