"""Kills extractions and finishes them; run as a module in a process of its own.

    python -m tests.extract.kill_driver random|steps|views IMAGES MODEL WORK COUNT

The process imports everything, reads the list of images and loads the encoder, in one thread, so
that a forked child starts with the extraction itself, at once and safely.
``random`` kills COUNT children at random moments, each after a random number of records; ``steps``
kills one child before every call that makes a file last or moves it to its place, and one after
every call that moves one (a kill finds the same files before a flush and after it). Each time the
extraction is finished by another child and compared, byte for byte, with an uninterrupted one.
``views`` kills children that add views to a finished cache, at random moments.
Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

import ltcache.texts  # noqa: F401  (imported before the fork, as everything heavy is)
from ltcache.cache import open_cache
from ltcache.cache.checking import UNCHECKED
from ltcache.encoder import Encoder, load_encoder
from ltcache.errors import CacheError
from ltcache.extract import extract
from ltcache.manifest import read_manifest
from ltcache.records.identity import file_digest

STEPS = ("fsync", "replace", "link")
SHARDS, SMALL = 5, 4  # kills at random moments: 20 images in shards of 4


def warm(images: str, model: str) -> Encoder:
    """Import what reading and decoding import on first use, and load the encoder."""
    torch.set_num_threads(1)
    read_manifest(images)
    Image.init()
    return load_encoder(f"local-dir:{model}")


def work(images: str, encoder: Encoder, out: Path, shard_size: int = SMALL) -> None:
    """Run one whole extraction, in micro-batches that do not fill the shards evenly."""
    batch_size = 3 if shard_size == SMALL else 5
    extract(
        images, out, encoder=encoder, shard_size=shard_size, batch_size=batch_size, workers=2,
        threads=1,
    )  # fmt: skip


def add_views(images: str, encoder: Encoder, out: Path) -> None:
    """Add two views to a finished cache."""
    extract(images, out, encoder=encoder, views=("flip", "rrc:3"), workers=2, threads=1)


def child(task: Callable[[], None]) -> int:
    """Start ``task`` in a forked process and return its pid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            task()
            status = 0
        except BaseException as error:  # the parent sees the status, the text helps a person
            print(f"child failed: {error!r}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    return pid


def finished(pid: int) -> bool:
    """Wait for a child; return whether it ended by itself and well."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def kill_after(pid: int, cache: Path, records: int, seconds: float) -> None:
    """Kill a child so long after the cache has so many records of shards, or when it has ended.

    A moment that is counted in work falls into the work, however fast the machine is by then.
    """
    while len(list(cache.glob("views/*/*.json"))) < records and _runs(pid):
        time.sleep(0.001)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _runs(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def digests(cache: Path) -> dict[str, str]:
    """Return path -> SHA-256 of every file of a cache that is checked."""
    files = (path for path in cache.rglob("*") if path.is_file() and path.name not in UNCHECKED)
    return {str(path.relative_to(cache)): file_digest(path) for path in sorted(files)}


def outcome(out: Path, reference: dict[str, str], resume: Callable[[], None]) -> dict[str, bool]:
    """Say what a killed cache looks like, finish it, and compare it with the reference."""
    try:
        open_cache(out)
        opened = True
    except CacheError:
        opened = False
    complete = digests(out) == reference if out.exists() else False
    shards = len(list(out.glob("views/center/*.json")))
    resumed = finished(child(resume))
    return {
        "opened_incomplete": opened and not _whole(out, reference, complete),
        "partial": shards > 0 and not opened,
        "resumed": resumed,
        "equal": digests(out) == reference,
    }


def _whole(out: Path, reference: dict[str, str], complete: bool) -> bool:
    """Return whether all named files are right; a left-over temporary file may lie beside them."""
    found = digests(out)
    return complete or all(found.get(name) == value for name, value in reference.items())


def random_kills(images: str, encoder: Encoder, root: Path, count: int) -> list[dict[str, bool]]:
    """Kill ``count`` extractions at random moments."""
    reference_path = root / "reference"
    started = time.perf_counter()
    assert finished(child(lambda: work(images, encoder, reference_path)))
    duration = time.perf_counter() - started
    reference = digests(reference_path)
    results = []
    rng = random.Random(2026)
    for number in range(count):
        out = root / f"killed-{number}"
        pid = child(lambda out=out: work(images, encoder, out))
        kill_after(pid, out, rng.randrange(SHARDS), rng.uniform(0, duration / SHARDS))
        results.append(outcome(out, reference, lambda out=out: work(images, encoder, out)))
        shutil.rmtree(out)
    return results


def view_kills(images: str, encoder: Encoder, root: Path, count: int) -> list[dict[str, bool]]:
    """Kill ``count`` additions of views at random moments."""
    base, whole = root / "base", root / "reference"
    assert finished(child(lambda: work(images, encoder, base)))
    shutil.copytree(base, whole)
    started = time.perf_counter()
    assert finished(child(lambda: add_views(images, encoder, whole)))
    duration = time.perf_counter() - started
    reference, before = digests(whole), digests(base)
    shards = {name: sha for name, sha in before.items() if name.startswith("views/")}
    results = []
    rng = random.Random(2027)
    for number in range(count):
        out = root / f"killed-{number}"
        shutil.copytree(base, out)
        pid = child(lambda out=out: add_views(images, encoder, out))
        more = rng.randrange(2 * SHARDS)
        kill_after(pid, out, SHARDS + more, rng.uniform(0, duration / (2 * SHARDS)))
        views = open_cache(out).views  # it opens at every moment, with what is whole
        found = digests(out)
        resumed = finished(child(lambda out=out: add_views(images, encoder, out)))
        results.append(
            {
                "all_or_nothing": set(views) in ({"center"}, {"center", "flip", "rrc:3"}),
                "untouched": shards.items() <= found.items(),
                "partial": set(views) == {"center"} and bool(list(out.glob("views/flip/*.json"))),
                "resumed": resumed,
                "equal": digests(out) == reference,
            }
        )
        shutil.rmtree(out)
    return results


def step_kills(images: str, encoder: Encoder, root: Path, every: int) -> list[dict[str, bool]]:
    """Kill extractions around every ``every``-th step of the commit sequence."""
    reference_path, counter = root / "reference", root / "steps"
    assert finished(child(lambda: counted(images, encoder, reference_path, counter)))
    reference, steps = digests(reference_path), counter.read_text().split()
    results = []
    for step, name in list(enumerate(steps))[::every]:
        for before in (True,) if name == "fsync" else (True, False):
            out = root / f"step-{step}-{before}"
            pid = child(lambda o=out, s=step, b=before: stopped(images, encoder, o, s, b))
            assert not finished(pid), f"step {step} was never reached"
            results.append(outcome(out, reference, lambda o=out: work(images, encoder, o, 12)))
            shutil.rmtree(out)
    return results


def counted(images: str, encoder: Encoder, out: Path, counter: Path) -> None:
    """Run an extraction and write the names of the steps that it took."""
    calls: list[str] = []
    patch(lambda name, before: calls.append(name) if before else None)
    work(images, encoder, out, 12)
    counter.write_text(" ".join(calls))


def stopped(images: str, encoder: Encoder, out: Path, step: int, before: bool) -> None:
    """Run an extraction that kills itself just before or just after a step."""
    calls = [0]

    def watch(_name: str, is_before: bool) -> None:
        if calls[0] == step and is_before == before:
            os.kill(os.getpid(), signal.SIGKILL)
        calls[0] += not is_before

    patch(watch)
    work(images, encoder, out, 12)


def patch(watch: Callable[[str, bool], None]) -> None:
    """Call ``watch(name, True)`` before and ``watch(name, False)`` after each step from here on."""
    for name in STEPS:
        original = getattr(os, name)

        def step(
            *args: object, name: str = name, original: Callable[..., object] = original
        ) -> object:
            watch(name, True)
            result = original(*args)
            watch(name, False)
            return result

        setattr(os, name, step)


def main() -> None:
    """Parse the command line and print the outcomes."""
    mode, images, model, root, count = sys.argv[1:]
    run = {"random": random_kills, "steps": step_kills, "views": view_kills}[mode]
    print(json.dumps(run(images, warm(images, model), Path(root), int(count))))


if __name__ == "__main__":
    main()
