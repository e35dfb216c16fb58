"""Decoding in other processes: the same pixels, whatever becomes of a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from ltcache.cache import open_cache
from ltcache.encoder import load_encoder
from ltcache.errors import LtcacheError, UsageError
from ltcache.extract import extract
from ltcache.images import (
    ChunkImage,
    DecodeProcesses,
    DecoderRecipe,
    PixelMemory,
    Preprocessing,
    View,
    modules_of_entries,
    views,
)
from ltcache.manifest import read_manifest
from tests.conftest import PATIENCE, Call
from tests.extract.kill_driver import digests

CENTER = View("center")
RECIPE = Preprocessing((32, 32), (0, 0, 0), (1, 1, 1))


@contextmanager
def one_process(
    root: Path, modules: tuple[str, ...] = ()
) -> Iterator[tuple[DecodeProcesses, PixelMemory]]:
    """Give one process that decodes for center crops of 32 pixels, and its memory."""
    with closing(PixelMemory(2, 4 * 3 * 32 * 32, shared=True)) as memory:
        several = DecodeProcesses(DecoderRecipe(root, RECIPE, modules=modules), 1, memory)
        with closing(several):
            yield several, memory


def decoded(several: DecodeProcesses, memory: PixelMemory, *uris: str) -> np.ndarray:
    """Return pixels (n, 3, 32, 32), and give their slot back."""
    slot, out = memory.take({"center": (1, len(uris), 3, 32, 32)})
    several.decode([ChunkImage(uri) for uri in uris], [CENTER], out)
    memory.give_back(slot)
    return out["center"][0].copy()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[str]]:
    """Return what writes a module that the processes import; returns its name."""

    def write(text: str) -> tuple[str]:
        (tmp_path / "added_by_a_test.py").write_text(text)
        return ("added_by_a_test",)

    monkeypatch.syspath_prepend(tmp_path)
    return write


def test_shards_are_those_of_threads(few_images: Path, tiny_clip: Path, tmp_path: Path) -> None:
    source = tmp_path / "images"
    source.mkdir()
    for at, path in enumerate(sorted(few_images.rglob("*.png"))):
        (source / path.parent.name).mkdir(exist_ok=True)
        data = path.read_bytes() if at != 3 else b"no image"
        (source / path.parent.name / path.name).write_bytes(data)
    encoder = load_encoder(f"local-dir:{tiny_clip}", device="cpu")
    for name, processes in (("threads", 0), ("processes", 2)):
        for more in (("flip", "rrc:2"), ("cmo:2",)):  # the second time to a finished cache
            report = extract(
                source, tmp_path / name, encoder=encoder, views=more, shard_size=12, batch_size=5,
                max_failures=0.5, decode_processes=processes, workers=2,
            )  # fmt: skip
        assert report.failed == 1
    assert digests(tmp_path / "threads") == digests(tmp_path / "processes")
    assert open_cache(tmp_path / "processes").views == ("center", "cmo:2", "flip", "rrc:2")


def test_a_killed_process_is_replaced(few_images: Path) -> None:
    uris = read_manifest(few_images).rows["uri"].to_pylist()[:4]
    with one_process(few_images) as (several, memory):
        before = decoded(several, memory, *uris)
        first = several._all[0]._process
        assert first is not None
        os.kill(first.pid, signal.SIGKILL)
        np.testing.assert_array_equal(decoded(several, memory, *uris), before)
        assert before.any()
        second = several._all[0]._process
        assert second is not None
    assert (first.returncode, second.returncode) == (-signal.SIGKILL, 0)


def test_images_over_which_processes_die_are_named(
    few_images: Path, module: Callable[[str], tuple[str]]
) -> None:
    deadly = module(
        "import os, signal\nfrom ltcache.images import chunks\n"
        "chunks.decode_views = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    uris = read_manifest(few_images).rows["uri"].to_pylist()[:2]
    with (
        one_process(few_images, deadly) as (several, memory),
        pytest.raises(LtcacheError, match="signal 9 over the images .* --decode-processes") as told,
    ):
        decoded(several, memory, *uris)
    assert all(uri in str(told.value) for uri in uris)


@pytest.mark.parametrize(
    ("raised", "kind", "text"),
    [
        ("ZeroDivisionError('of a defect')", ZeroDivisionError, "of a defect"),
        ("type('Odd', (Exception,), {})('unknown here')", RuntimeError, "Odd: unknown here"),
    ],
)
def test_a_defect_is_raised_where_it_was_asked_for(
    few_images: Path,
    module: Callable[[str], tuple[str]],
    raised: str,
    kind: type[Exception],
    text: str,
) -> None:
    broken = module(
        "from ltcache.images import chunks\n"
        f"def broken(*_):\n    raise {raised}\nchunks.decode_views = broken\n"
    )
    uri = read_manifest(few_images).rows["uri"][0].as_py()
    with (
        one_process(few_images, broken) as (several, memory),
        pytest.raises(kind, match=text),
    ):
        decoded(several, memory, uri)


def test_processes_end_with_the_one_that_was_killed(few_images: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from ltcache.images import *; "
        "memory = PixelMemory(1, 3 * 32 * 32, shared=True); "
        "how = Preprocessing((32, 32), (0, 0, 0), (1, 1, 1)); "
        "several = DecodeProcesses(DecoderRecipe(Path(sys.argv[1]), how), 1, memory); "
        "out = memory.take({'center': (1, 1, 3, 32, 32)})[1]; "
        "several.decode([ChunkImage(sys.argv[2])], [View('center')], out); "
        "print(several._all[0]._process.pid, flush=True); time.sleep(float(sys.argv[3]))"
    )
    uri = read_manifest(few_images).rows["uri"][0].as_py()
    asks = subprocess.Popen(
        [sys.executable, "-c", program, str(few_images), uri, str(PATIENCE)],
        stdout=subprocess.PIPE,
    )
    assert asks.stdout is not None
    decodes = int(asks.stdout.readline())
    asks.kill()
    asks.wait()
    asks.stdout.close()
    deadline = time.monotonic() + PATIENCE
    while _runs(decodes):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _runs(process: int) -> bool:
    """Whether a process of any parent is there and is no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def test_what_the_program_adds_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert modules_of_entries() == ()

    def added() -> None:
        """Cut nothing."""

    monkeypatch.setitem(views.GEOMETRY, "added", added)
    assert modules_of_entries() == (__name__,)
    added.__module__ = "__main__"
    with pytest.raises(UsageError, match="put it into a module"):
        modules_of_entries()


def test_arrays_are_found_again_in_the_memory() -> None:
    with closing(PixelMemory(3, 5000)) as memory:
        slots, values = [], np.arange(4000, dtype=np.uint8).reshape(2, 5, 400)
        for _ in range(3):
            slot, arrays = memory.take({"a": (1000,), "b": (2, 5, 400)})
            arrays["b"][:] = values
            part = arrays["b"][:, 1:3]
            offset, shape, strides = memory.place_of(part)
            found = np.ndarray(shape, np.uint8, memory.bytes.data, offset, strides)
            np.testing.assert_array_equal(found, values[:, 1:3])
            slots.append(slot)
        assert len(set(slots)) == 3
        memory.give_back(slots[1])
        assert memory.take({})[0] == slots[1]


def test_what_cannot_be_meant_is_refused(tmp_path: Path, call: Call) -> None:
    both = ("--workers", 2, "--decode-processes", 2)
    status, _, err = call("extract", "emoji_lt", "--out", tmp_path / "c", *both)
    assert (status, "--workers has no effect with --decode-processes" in err) == (2, True)
    with pytest.raises(UsageError, match="at least 0"):
        extract("emoji_lt", tmp_path / "c", decode_processes=-1)
