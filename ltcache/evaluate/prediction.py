"""Predictions of a run for images that no cache holds: decode, encode, classify, in one stream."""

from __future__ import annotations

import itertools
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ltcache.adjustments import require_alone
from ltcache.cache import stored
from ltcache.errors import FitError, IdentityError, ImageError, UsageError
from ltcache.images import ImageInput, Preprocessing, View, decode_views, inputs
from ltcache.manifest import NO_IMAGES, LeftOut
from ltcache.process import (
    ConcurrentPasses,
    activations_kept,
    passes_at_once,
    threads_of_passes,
    usable_processors,
)
from ltcache.records import JsonRecord, bytes_digest, differences, require_equal
from ltcache.runs import Run, open_run

if TYPE_CHECKING:
    from ltcache.encoder import Encoder, EncoderChoice

DECODER = "pillow"


@dataclass(frozen=True)
class Prediction(JsonRecord):
    """What a run says about one image.

    Args:
        image: as it was named.
        labels: the most probable classes, most probable first; empty where the image failed.
        names: of these classes. probabilities: softmax over all classes, in 0..1.
        error: why the image failed, or None.
    """

    image: str
    labels: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str | None = None


def predict(
    run: Run | str | Path,
    images: Iterable[str | Path],
    *,
    top: int = 5,
    encoder: Encoder | EncoderChoice | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    strict: bool = False,
    allow_stale: Collection[str] = (),
    lines: Iterable[str] | None = None,
) -> Iterator[Prediction]:
    """Classify images with a run; one :class:`Prediction` for each, in order.

    Memory is bounded by a few batches, however many images there are. Features are rounded as a
    cache stores them, so a prediction is what ``evaluate`` scores for the same image. A warning at
    the end names files of folders and archives that are no images.

    Args:
        run: a run or its directory.
        images: files, folders, .zip and .tar archives, ``-`` for the names in ``lines``
            (:func:`ltcache.images.inputs.inputs`).
        top: classes to name for each image; all where there are fewer.
        encoder: loaded already, or which one to load; by default the checkpoint that the run lies
            in, or else what the run's own record names.
        batch_size: images in one forward pass.
        workers: decoding threads; the number of processors by default.
        strict: refuse an encoder that differs in numerics (precision, device kind, library
            versions) from the one the run's features came from, instead of warning; compute threads
            are taken from there.
        allow_stale: identity fields of the encoder that may differ.

    Raises:
        IdentityError: the encoder is not the one that the run was fitted on (status 4).
        UsageError: options that cannot be meant, or a run that does not say enough.
        FitError: a transductive run, which predicts no image by itself.
    """
    run = open_run(run)
    require_alone(run.head)
    if top < 1 or batch_size < 1:
        raise UsageError("top and batch_size must be at least 1")
    view = view_of(run)
    encoder = encoder_of_run(run, encoder)
    check_encoder(run, encoder, strict=strict, allow_stale=allow_stale)
    workers = workers or usable_processors()
    left_out = LeftOut(NO_IMAGES)
    stream = inputs(images, lines, left_out)
    found = _predictions(run, encoder, view, stream, top, batch_size, workers)
    threads = (run.record.identities.get("numerics") or {}).get("threads")
    return _warned(found, left_out, threads)


def _warned(
    found: Iterator[Prediction], left_out: LeftOut, threads: int | None
) -> Iterator[Prediction]:
    """Pass predictions on and warn at the end of what was no image."""
    with threads_of_passes(threads), activations_kept():
        yield from found
    for sentence in left_out.sentences():
        warnings.warn(sentence, stacklevel=2)


def view_of(run: Run) -> View:
    """Return the view that a run predicts on, as the cache had it that it was fitted on."""
    name = run.method.feature.eval_view
    return View.from_identity(run.record.identities.get("view") or {"name": name})


def check_encoder(
    run: Run, encoder: Encoder, *, strict: bool = False, allow_stale: Collection[str] = ()
) -> list[str]:
    """Refuse an encoder whose features a run's head cannot take.

    Returns:
        Identity fields that differ and were let pass.

    Raises:
        IdentityError: another encoder, or under ``strict`` other numerics.
    """
    identities = run.record.identities
    remedy = "name the encoder that the run was fitted on with --model and --pretrained"
    stale = require_equal(
        "encoder", identities["encoder"], encoder.identity, allow_stale=allow_stale, remedy=remedy
    )
    field, dim = run.record.field, run.record.dim
    if encoder.dims.get(field) != dim:
        raise FitError(f"the head takes {field!r} of {dim} dimensions, the encoder {encoder.dims}")
    _check_numerics(identities.get("numerics") or {}, encoder, strict)
    return stale


def _check_numerics(expected: Mapping[str, Any], encoder: Encoder, strict: bool) -> None:
    with threads_of_passes(expected.get("threads")):  # which this process can take
        found = differences(expected, {**encoder.numerics(), "decoder": DECODER})
    if not found:
        return
    if strict:
        raise IdentityError("numerics", found, "leave --strict out to go on with a warning")
    warnings.warn(
        f"the run's features were computed otherwise ({', '.join(found)}); probabilities can "
        "differ in their last digits (--strict refuses this)",
        stacklevel=3,
    )


def encoder_of_run(run: Run, encoder: Encoder | EncoderChoice | None = None) -> Encoder:
    """Return an encoder for a run: as given, or loaded as it is named, or else the checkpoint that
    the run lies in (that of a fine-tuning does), or else the one that the run's record names."""
    from ltcache.encoder import EncoderChoice, is_checkpoint, load_chosen, recorded_encoder

    if encoder is not None and not isinstance(encoder, EncoderChoice):
        return encoder
    choice = encoder or EncoderChoice()
    above = None if run.path is None else run.path.resolve().parent
    named = choice.model is not None or choice.pretrained is not None
    if not named and above is not None and is_checkpoint(above):
        return load_chosen(replace(choice, model=f"local-dir:{above}"))
    return recorded_encoder(_provenance(run, choice), str(run.path or "the run"), choice)


def _provenance(run: Run, choice: EncoderChoice) -> Mapping[str, str | None]:
    """Return how the run's encoder was named: by the run, or else by the cache it came from."""
    named: Mapping[str, str | None] | None = run.record.provenance
    if named is not None:
        return named
    if choice.model is not None:
        return {}
    from ltcache.cache import open_cache

    where = run.record.cache
    if run.path is None or not where or not (run.path / where / "cache.json").is_file():
        raise UsageError("the run does not name its encoder: give --model and --pretrained")
    return open_cache(run.path / where).provenance


def _predictions(
    run: Run,
    encoder: Encoder,
    view: View,
    stream: Iterator[ImageInput],
    top: int,
    batch_size: int,
    workers: int,
) -> Iterator[Prediction]:
    decode = partial(_decode, preprocessing=encoder.preprocessing, view=view)
    at_once = passes_at_once(encoder.device.type)
    decoded = _decoded(stream, decode, workers, at_once * batch_size + 2 * workers)
    running: deque[Future[list[Prediction]]] = deque()
    with ConcurrentPasses(at_once) as passes:
        while batch := list(itertools.islice(decoded, batch_size)):
            running.append(passes.submit(_classified, run, encoder, batch, top))
            if len(running) > at_once - 1:
                yield from running.popleft().result()
        while running:
            yield from running.popleft().result()


def _decoded(
    stream: Iterator[ImageInput],
    decode: Callable[[ImageInput], np.ndarray | str],
    workers: int,
    ahead: int,
) -> Iterator[tuple[str, np.ndarray | str]]:
    """Yield name and pixels, or name and error, in order; at most ``ahead`` decode in advance."""
    waiting: deque[tuple[str, Future[np.ndarray | str]]] = deque()
    with ThreadPoolExecutor(workers, "decode") as pool:
        try:
            for item in stream:
                waiting.append((item.name, pool.submit(decode, item)))
                if len(waiting) > ahead:
                    name, future = waiting.popleft()
                    yield name, future.result()
            while waiting:
                name, future = waiting.popleft()
                yield name, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _decode(item: ImageInput, preprocessing: Preprocessing, view: View) -> np.ndarray | str:
    """Return pixels uint8 (crops, 3, H, W), or why there are none."""
    try:
        data = item.read()
        content = bytes_digest(data) if view.random else ""
        return decode_views(data, preprocessing, [view], content).pixels[view.name]
    except ImageError as error:
        return str(error)


def _classified(
    run: Run, encoder: Encoder, batch: list[tuple[str, np.ndarray | str]], top: int
) -> list[Prediction]:
    """Encode and classify what could be decoded; return a prediction for every image."""
    return list(_each_classified(run, encoder, batch, top))


def _each_classified(
    run: Run, encoder: Encoder, batch: list[tuple[str, np.ndarray | str]], top: int
) -> Iterator[Prediction]:
    pixels = [image for _, image in batch if not isinstance(image, str)]
    ranked = iter(_ranked(run, encoder, np.stack(pixels), top) if pixels else ())
    for name, image in batch:
        if isinstance(image, str):
            yield Prediction(name, error=image)
            continue
        labels, probabilities = next(ranked)
        if not np.isfinite(probabilities).all():
            yield Prediction(name, error="the encoder gave features that are not finite")
            continue
        names = tuple(run.class_names[label] if run.class_names else "" for label in labels)
        yield Prediction(name, tuple(labels), names, tuple(probabilities))


def _ranked(
    run: Run, encoder: Encoder, pixels: np.ndarray, top: int
) -> Iterator[tuple[list[int], list[float]]]:
    """Yield labels and probabilities, most probable first, of uint8 pixels (N, v, 3, H, W)."""
    import torch

    field = run.record.field
    crops = (torch.from_numpy(np.ascontiguousarray(pixels[:, v])) for v in range(pixels.shape[1]))
    encoded = [encoder.encode_images(crop, (field,))[field].numpy() for crop in crops]
    found = most_probable(run.logits(stored(np.stack(encoded, axis=1))), top)
    for labels, probabilities in zip(*found, strict=True):
        yield labels.tolist(), probabilities.tolist()


def most_probable(logits: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the most probable classes of logits (N, C) and their probabilities, each (N, top)."""
    found = probabilities_of(logits)
    labels = np.argsort(-found, axis=1, kind="stable")[:, :top]
    return labels, np.take_along_axis(found, labels, axis=1)


def probabilities_of(logits: np.ndarray) -> np.ndarray:
    """Return softmax over classes in float64, (N, C)."""
    z = logits.astype(np.float64)
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(z / z.sum(axis=1, keepdims=True))
