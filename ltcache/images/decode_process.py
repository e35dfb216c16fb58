"""A process that decodes for another one, into memory that both see.

:mod:`ltcache.images.decode_processes` starts it. It imports nothing that computes, and ends when
the other one has gone.
"""

from __future__ import annotations

import importlib
import mmap
import pickle
import signal
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

from ltcache.images.chunks import ChunkDecoder, ChunkImage, DecoderRecipe, ImageOutcome
from ltcache.images.pixel_memory import array_at
from ltcache.images.views import View


@dataclass(frozen=True)
class ChunkTask:
    """What is to be decoded.

    Args:
        images, views: see :meth:`ltcache.images.chunks.ChunkDecoder.decode`.
        places: view -> where its pixels go, as ``PixelMemory.place_of`` says it.
    """

    images: Sequence[ChunkImage]
    views: Sequence[View]
    places: Mapping[str, tuple[int, tuple[int, ...], tuple[int, ...]]]


def serve(channel: int, memory: int, size: int) -> None:
    """Decode what is asked for until nobody asks any more.

    Args:
        channel: descriptor of a socket: the recipe comes first, then tasks; each task is answered
            by its outcomes or by the error that it raised.
        memory: descriptor of ``size`` bytes that both see.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that asks
    warnings.simplefilter("ignore")  # of odd images: what is wrong with them is in their outcome
    pixels = mmap.mmap(memory, size)
    with Connection(channel) as asked:
        try:
            recipe: DecoderRecipe = asked.recv()
            for module in recipe.modules:
                importlib.import_module(module)
            decoder = recipe.open()
            while True:
                asked.send(_answer(decoder, asked.recv(), pixels))
        except (EOFError, ConnectionError):  # the one that asks is done, or dead
            return


def _answer(
    decoder: ChunkDecoder, task: ChunkTask, memory: mmap.mmap
) -> list[ImageOutcome] | Exception:
    out = {name: array_at(memory, *place) for name, place in task.places.items()}
    try:
        return decoder.decode(task.images, task.views, out)
    except Exception as error:
        return _that_travels(error)


def _that_travels(error: Exception) -> Exception:
    """Return an error, or its text where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
