"""Memory that batches free is kept, where the C library can and nobody says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ltcache.evaluate.prediction import predict
from ltcache.examine.bench import bench
from ltcache.extract import extract
from ltcache.finetune import finetune
from ltcache.fit import fit_head, fit_many
from ltcache.process.allocation import keep_freed_memory

FAULTS = """
import ctypes, resource, sys
from ltcache.process.allocation import keep_freed_memory
done = keep_freed_memory() if sys.argv[1] == "kept" else False
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def batch():
    blocks = [libc.malloc(20 << 20) for _ in range(5)]
    for block in blocks:
        libc.memset(block, 1, 20 << 20)
    for block in blocks:
        libc.free(block)

for _ in range(2):
    batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    batch()
print(done, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def without_malloc_settings() -> dict[str, str]:
    return {n: v for n, v in os.environ.items() if not n.startswith(("MALLOC_", "GLIBC_"))}


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    keep_freed_memory.cache_clear()
    yield
    keep_freed_memory.cache_clear()


def faults(how: str) -> tuple[bool, int]:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how],
        env=without_malloc_settings(),
        capture_output=True,
        text=True,
        check=True,
    )
    kept, number = done.stdout.split()
    return kept == "True", int(number)


@pytest.mark.skipif(sys.platform != "linux", reason="the C library has no mallopt")
def test_batches_take_the_same_pages_again() -> None:
    kept, few = faults("kept")
    if not kept:
        pytest.skip("the C library is not glibc")
    _, many = faults("given back")
    assert few < 100 < 10 * 100 < many


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


WORK: dict[str, Callable[[Any], Any]] = {
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
