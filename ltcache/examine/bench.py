"""How fast a model encodes here: what binds, and which precision and batch size are fastest."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from ltcache.encoder import Encoder, EncoderChoice, computes_in, load_chosen
from ltcache.errors import EncoderError, ImageError, UsageError
from ltcache.extract import LoopSpeed, trial_loop
from ltcache.images import Preprocessing, decode, open_store
from ltcache.manifest import Manifest, Root
from ltcache.process import (
    THREADS,
    ConcurrentPasses,
    activations_kept,
    passes_at_once,
    threads_of_passes,
    to_device,
    usable_processors,
)
from ltcache.records import JsonObject, JsonRecord, plain_json

PRECISIONS = {
    "cpu": ("fp32", "bf16"),
    "cuda": ("fp32", "tf32", "bf16", "fp16"),
    "mps": ("fp32", "fp16"),
}
"""Kind of device -> what is tried on it, float32 first."""
BATCHES = {"cpu": (16, 64), "cuda": (64, 256, 1024), "mps": (16, 64)}
"""Kind of device -> the batch sizes that are tried."""
LEAST_GAIN = 1.2
"""How much faster than float32 another precision must be to be worth features that move."""
LEAST_COSINE = 0.99
"""How near to float32 all features of another precision must be to recommend it."""
SECONDS = 1.5
"""What is timed goes on for at least so long."""
_LOOP_PERIODS, _LOOP_BATCHES = 4, 64  # the loop goes on for so many of SECONDS, and batches at most


REMEDIES = {
    "decoding": "as many --decode-processes as there are processors, or files that were made "
    "smaller once",
    "transfer": "more GPUs (--gpus): the way to this one is full",
    "encoding": "more GPUs (--gpus), another precision or a smaller model",
    "writing": "a faster disk for --out, or --fields embedding alone",
}
"""What binds -> what makes an extraction on a GPU faster."""
CPU_REMEDIES = {
    **REMEDIES,
    "decoding": "files that were made smaller once",
    "encoding": "a GPU, another precision or a smaller model",
}
"""The same on a CPU, where decoding and encoding share the processors."""


@dataclass(frozen=True)
class ForwardSpeed:
    """Forward passes in one precision with one batch size.

    Args:
        precision: ``fp32``, ``tf32``, ``bf16`` or ``fp16``. batch: images in one pass.
        images_per_second: forward passes alone. least_cosine: of features to those of float32, over
            the sample. gigabytes: the most that the GPU's memory held, None elsewhere.
    """

    precision: str
    batch: int
    images_per_second: float
    least_cosine: float
    gigabytes: float | None


@dataclass(frozen=True)
class BenchResult(JsonRecord):
    """What was measured on a sample of images.

    Args:
        model, device: what was measured, and where.
        images: of the sample; failed: of it, could not be decoded, and is in no rate. decoding:
            images a second that all ``workers`` threads read and decode. speeds: by precision and
            batch size.
        transfer: images a second that are copied to the GPU, None elsewhere.
        loop: all at once in the best precision and batch size.
    """

    model: str
    device: str
    images: int
    failed: int
    workers: int
    decoding: float
    speeds: tuple[ForwardSpeed, ...]
    transfer: float | None = None
    loop: LoopSpeed | None = None

    @property
    def best(self) -> ForwardSpeed:
        """The fastest of float32, or of a precision that is faster by :data:`LEAST_GAIN` and as
        near to it as :data:`LEAST_COSINE`."""
        exact = max((s for s in self.speeds if s.precision == "fp32"), key=_rate)
        near = [s for s in self.speeds if s.least_cosine >= LEAST_COSINE]
        fastest = max(near, key=_rate, default=exact)
        return fastest if _rate(fastest) >= LEAST_GAIN * _rate(exact) else exact

    @property
    def bound(self) -> float:
        """Images a second that extraction cannot exceed with :attr:`best`: on a CPU decoding and
        forward passes share the processors, else the slower of the two."""
        if self.device.startswith("cpu"):
            return 1 / (1 / self.decoding + 1 / self.best.images_per_second)
        return min(self.decoding, self.best.images_per_second)

    @property
    def binds(self) -> str:
        """What takes most of the time: ``decoding``, ``transfer``, ``encoding`` or ``writing``."""
        slower = "decode" if self.decoding < self.best.images_per_second else "encode"
        stage = self.loop.binds if self.loop else slower
        if stage == "encode" and (self.transfer or np.inf) < self.best.images_per_second:
            return "transfer"
        return {"decode": "decoding", "encode": "encoding", "write": "writing"}[stage]

    @property
    def remedy(self) -> str:
        """What to change so that extraction is faster."""
        return (REMEDIES if self.device.startswith("cuda") else CPU_REMEDIES)[self.binds]

    def to_dict(self) -> JsonObject:
        """Return plain JSON."""
        more = {"best": plain_json(self.best), "bound": self.bound, "binds": self.binds}
        return {**super().to_dict(), **more, "remedy": self.remedy}


def bench(
    manifest: Manifest,
    choice: EncoderChoice | None = None,
    *,
    images: int = 256,
    batches: Sequence[int] | None = None,
    workers: int | None = None,
    decode_processes: int = 0,
    progress: Callable[[str], None] | None = None,
) -> BenchResult:
    """Measure reading with decoding, and forward passes in every precision and batch size.

    Args:
        manifest: whose images are sampled, evenly over its rows.
        choice: the encoder; None: the embedded one. Its precision has no effect: each is measured.
        images: in the sample. batches: sizes to try; None: :data:`BATCHES`. workers: decoding
            threads; the usable processors by default.
        decode_processes: that decode in the loop in place of the threads.
        progress: called with what is measured next.

    Raises:
        UsageError: no image, or a batch size below 1. ImageError: no image can be decoded.
        EncoderError: the model cannot be loaded, or the GPU does not hold the smallest batch.
    """
    if not len(manifest) or images < 1 or min(batches or (1,)) < 1:
        raise UsageError("bench needs at least one image, and batches of at least one")
    tell = progress or (lambda text: None)
    choice = choice or EncoderChoice()
    encoder = load_chosen(replace(choice, precision="fp32"))
    kind, workers = encoder.device.type, workers or usable_processors()
    tell(f"reading and decoding with {workers} threads")
    found, uris, decoding = _decoded(manifest, images, encoder.preprocessing, workers)
    pixels, sizes = torch.from_numpy(found), sorted(batches or BATCHES[kind])
    with threads_of_passes(THREADS if kind == "cpu" else None), activations_kept():
        exact = _exact(encoder, pixels, sizes[0], choice.name)
        speeds: list[ForwardSpeed] = []
        for precision in precisions_of(encoder.device):
            tell(f"forward passes in {precision}")
            if precision != "fp32":
                encoder = load_chosen(replace(choice, precision=precision))
            speeds += _speeds(encoder, pixels, sizes, exact)
        count = min(images, len(manifest))
        result = BenchResult(
            choice.name,
            str(encoder.device),
            count,
            count - len(found),
            workers,
            decoding,
            tuple(speeds),
            _transfer(encoder, pixels),
        )
        tell("all at once")
        if encoder.precision != result.best.precision:
            encoder = load_chosen(replace(choice, precision=result.best.precision))
        return replace(result, loop=_loop(result, manifest.root, uris, encoder, decode_processes))


def precisions_of(device: torch.device) -> list[str]:
    """Return the precisions of :data:`PRECISIONS` that a device computes in."""
    return [name for name in PRECISIONS[device.type] if computes_in(name, device)]


def _exact(encoder: Encoder, pixels: torch.Tensor, size: int, name: str) -> torch.Tensor:
    """Return the features of float32."""
    try:
        return _encoded(encoder, pixels, size)
    except torch.cuda.OutOfMemoryError:
        raise EncoderError(
            f"the GPU's memory does not hold {size} images of {name}: try smaller batches"
        ) from None


def _loop(
    result: BenchResult,
    root: Root | None,
    uris: Sequence[str],
    encoder: Encoder,
    decode_processes: int,
) -> LoopSpeed:
    """Measure decoding, encoding and writing at once, for some seconds.

    Args:
        uris: of the images of the sample that can be decoded.
    """
    batch = result.best.batch
    some = int(result.bound * _LOOP_PERIODS * SECONDS)
    count = max(2 * batch, min(some, _LOOP_BATCHES * batch))
    return trial_loop(
        root,
        list(itertools.islice(itertools.cycle(uris), count)),
        encoder,
        batch=batch,
        workers=result.workers,
        decode_processes=decode_processes,
    )


def _transfer(encoder: Encoder, pixels: torch.Tensor) -> float | None:
    """Return how many images a second are copied to a GPU, from memory that is pinned."""
    if encoder.device.type != "cuda":
        return None
    pinned, count, started = pixels.pin_memory(), 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        to_device(pinned, encoder.device)
        torch.cuda.current_stream(encoder.device).synchronize()
        count += len(pinned)
    return count / (time.perf_counter() - started)


def _speeds(
    encoder: Encoder, pixels: torch.Tensor, sizes: Sequence[int], exact: torch.Tensor
) -> Iterator[ForwardSpeed]:
    """Yield one precision with every batch size that the memory holds.

    Args:
        exact: features of float32.
    """
    for size in sizes:
        try:
            rate, features = _forward(encoder, pixels, size)
        except torch.cuda.OutOfMemoryError:
            return
        cosine = torch.nn.functional.cosine_similarity(features, exact).min()
        yield ForwardSpeed(encoder.precision, size, rate, float(cosine), _gigabytes(encoder))


def _decoded(
    manifest: Manifest, images: int, preprocessing: Preprocessing, workers: int
) -> tuple[np.ndarray, list[str], float]:
    """Return pixels uint8 (n, 3, H, W) of the sample's images that can be decoded, their uris, and
    how many of them were decoded in a second."""
    store = open_store(manifest.root)
    uris = _sample(manifest, images)

    def read(uri: str) -> np.ndarray | ImageError:
        try:
            return decode(store.read(uri), preprocessing).pixels
        except (ImageError, OSError) as error:
            return ImageError(f"{uri}: {error}; the images are looked for in {manifest.root}")

    with ThreadPoolExecutor(workers) as pool:
        started = time.perf_counter()
        found = list(pool.map(read, uris))
        seconds = time.perf_counter() - started
    pixels = [one for one in found if isinstance(one, np.ndarray)]
    if not pixels:
        raise next(one for one in found if isinstance(one, ImageError))
    good = [uri for uri, one in zip(uris, found, strict=True) if isinstance(one, np.ndarray)]
    return np.stack(pixels), good, len(pixels) / seconds


def _sample(manifest: Manifest, images: int) -> list[str]:
    """Return uris, evenly over the rows."""
    chosen = np.unique(np.linspace(0, len(manifest) - 1, images).astype(np.int64))
    uris: list[str] = manifest.rows["uri"].take(chosen).to_pylist()
    return uris


def _forward(encoder: Encoder, pixels: torch.Tensor, size: int) -> tuple[float, torch.Tensor]:
    """Return images a second, and the embeddings of the sample."""
    if encoder.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(encoder.device)
    features = _encoded(encoder, pixels, size)  # the first pass warms up
    full = pixels.repeat(-(-size // len(pixels)), 1, 1, 1)  # no batch is smaller than asked for
    batches = list(_whole(full, size))
    run: Callable[[torch.Tensor], object] = encoder.encode_images
    if encoder.device.type == "cuda":  # what the way there takes is measured by itself
        batches, run = [to_device(batches[0], encoder.device)], partial(_pass_there, encoder)
    at_once = passes_at_once(encoder.device.type)
    running: deque[Future[object]] = deque()
    count, started = 0, time.perf_counter()
    with ConcurrentPasses(at_once) as passes:
        for batch in itertools.cycle(batches):
            running.append(passes.submit(run, batch))
            if len(running) == at_once:
                running.popleft().result()
                count += size
            if time.perf_counter() - started >= SECONDS:
                break
        for rest in running:
            rest.result()
            count += size
        seconds = time.perf_counter() - started
    return count / seconds, features


def _pass_there(encoder: Encoder, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Encode pixels that are on a GPU, and wait until it has."""
    found = encoder.forward_fields(pixels)
    torch.cuda.current_stream(encoder.device).synchronize()
    return found


def _encoded(encoder: Encoder, pixels: torch.Tensor, size: int) -> torch.Tensor:
    name = next(iter(encoder.dims))  # a tower without texts has no embedding
    found = [encoder.encode_images(batch, [name])[name] for batch in pixels.split(size)]
    return torch.cat(found)


def _whole(pixels: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    yield from (batch for batch in pixels.split(size) if len(batch) == size)


def _gigabytes(encoder: Encoder) -> float | None:
    if encoder.device.type != "cuda":
        return None
    return torch.cuda.max_memory_allocated(encoder.device) / 2**30


def _rate(speed: ForwardSpeed) -> float:
    return speed.images_per_second
