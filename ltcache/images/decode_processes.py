"""Decoding in other processes, which do not share this one's interpreter.

Pillow holds the interpreter for a part of the time that an image takes it, which bounds what the
threads of one process can decode, however many they are. Other processes write pixels into memory
that this one sees; what travels are names, digests and reasons.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from queue import SimpleQueue

import numpy as np

from ltcache.errors import LtcacheError, UsageError
from ltcache.images.chunks import ChunkImage, DecoderRecipe, ImageOutcome
from ltcache.images.decode_process import ChunkTask
from ltcache.images.pixel_memory import PixelMemory
from ltcache.images.views import GEOMETRY, View
from ltcache.manifest import ROOT_FORMATS

_TRIES = 2
_GRACE = 10.0  # seconds until a process that was asked to end is killed
_PROGRAM = "from ltcache.images.decode_process import serve; serve({}, {}, {})"


class DecodeProcesses:
    """Processes that decode as a :class:`ltcache.images.chunks.ChunkDecoder` does.

    Args:
        recipe: what they decode with. count: how many.
        memory: where the pixels are that they are given to fill.
    """

    def __init__(self, recipe: DecoderRecipe, count: int, memory: PixelMemory) -> None:
        self._all = [_DecodeProcess(recipe, memory) for _ in range(count)]
        self._idle: SimpleQueue[_DecodeProcess] = SimpleQueue()
        for process in self._all:
            self._idle.put(process)

    def decode(
        self, images: Sequence[ChunkImage], views: Sequence[View], out: Mapping[str, np.ndarray]
    ) -> list[ImageOutcome]:
        """Decode in a process that is idle, or as soon as one is; from any thread.

        Args:
            out: view -> uint8 (crops, n, 3, H, W) in the shared memory.

        Raises:
            LtcacheError: a process died over these images, and so did the one that took its place.
        """
        process = self._idle.get()
        try:
            return process.decode(images, views, out)
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End all; none may be decoding."""
        for process in self._all:
            process.end()


class _DecodeProcess:
    """One process, started when it is first needed and again when it has died."""

    def __init__(self, recipe: DecoderRecipe, memory: PixelMemory) -> None:
        self._recipe, self._memory = recipe, memory
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Connection | None = None

    def decode(
        self, images: Sequence[ChunkImage], views: Sequence[View], out: Mapping[str, np.ndarray]
    ) -> list[ImageOutcome]:
        places = {name: self._memory.place_of(array) for name, array in out.items()}
        task, status = ChunkTask(images, views, places), 0
        for _ in range(_TRIES):
            channel = self._channel or self._start()
            try:
                channel.send(task)
                answer = channel.recv()
            except (EOFError, ConnectionError):
                status = self.end()
                continue
            if isinstance(answer, Exception):
                raise answer
            found: list[ImageOutcome] = answer
            return found
        raise LtcacheError(_death(status, images))

    def _start(self) -> Connection:
        assert self._memory.file is not None
        here, there = socket.socketpair()
        with there:
            shared = (there.fileno(), self._memory.file)
            program = _PROGRAM.format(*shared, len(self._memory.bytes))
            self._process = subprocess.Popen(
                [sys.executable, "-c", program],
                stdin=subprocess.DEVNULL,
                pass_fds=shared,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self._channel = Connection(here.detach())
        with contextlib.suppress(ConnectionError):  # its death is noticed with the first task
            self._channel.send(self._recipe)
        return self._channel

    def end(self) -> int:
        """Let the process end and return its exit status; negative: the signal that killed it."""
        if self._process is None or self._channel is None:
            return 0
        self._channel.close()
        process, self._process, self._channel = self._process, None, None
        try:
            return process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def modules_of_entries() -> tuple[str, ...]:
    """Return the modules outside of this package that have added formats or views.

    Raises:
        UsageError: one was added by the program itself, which other processes cannot import.
    """
    entries = (*ROOT_FORMATS.values(), *GEOMETRY.values())
    named = {entry.__module__ for entry in entries}
    found = tuple(sorted(name for name in named if name.partition(".")[0] != "ltcache"))
    if "__main__" in found:
        raise UsageError(
            "decode processes cannot import what the program itself adds to the formats or views: "
            "put it into a module, or decode in threads (no --decode-processes)"
        )
    return found


def _death(status: int, images: Sequence[ChunkImage]) -> str:
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    return (
        f"a decoding process ended with {how} over the images {images[0].uri} to {images[-1].uri}, "
        "and so did the one before it. Signal 9 mostly means that memory ran out: take fewer "
        "--decode-processes; else look at these images, or decode in threads (no "
        "--decode-processes). What is done is kept, and the same command goes on"
    )
