"""Is a cache what its index says, and do its images still give its features?

The files and values are checked by :mod:`ltcache.cache.verify` and need nothing but the cache. A
sample of images can be encoded again here: that finds features that were right for another encoder,
other images or another order, which no digest can tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ltcache.cache import Cache, open_cache
from ltcache.cache.fingerprint import bytes_digest, differences, require_equal
from ltcache.cache.layout import CENTER
from ltcache.cache.norms import cosines
from ltcache.cache.verify import Problem, VerifyReport, verify_files
from ltcache.checks import check_cache
from ltcache.class_texts import named_encoder
from ltcache.errors import CacheError, ImageError, UsageError
from ltcache.images import decode, open_store
from ltcache.manifest import read_manifest

if TYPE_CHECKING:
    from ltcache.encoder import Encoder

SAME = 0.999
"""Least cosine of a feature encoded again (float16 storage costs 1e-6, other threads less)."""

SIMILAR = 0.98
"""Least cosine under another precision or decoder."""

_BATCH = 64


@dataclass(frozen=True)
class Resample:
    """How to encode a sample again.

    Args:
        rows: how many images, at most; 0 encodes none.
        source: what the cache was made from; says where the images are.
        root: where they are, if not where the source says.
        encoder: loaded already; else ``model``, ``pretrained`` and ``activation`` say what to load,
            by default what the cache names, on ``device`` with ``precision`` (the cache's own).
        seed: of the choice of rows.
    """

    rows: int
    source: str | Path | None = None
    root: str | Path | None = None
    encoder: Encoder | None = None
    model: str | None = None
    pretrained: str | None = None
    activation: str | None = None
    device: str = "auto"
    precision: str | None = None
    seed: int = 0


def verify(
    path: str | Path,
    *,
    max_shards: int | None = None,
    sample: Resample | None = None,
    checks: bool = False,
) -> VerifyReport:
    """Check a cache's files, their contents, and a sample of its features.

    Args:
        path: of the cache.
        max_shards: read at most so many shards of each view; all by default.
        sample: encode some of the images again and compare.
        checks: also look for labels that seem permuted, names that repeat and images that are in
            several splits (:func:`ltcache.checks.check_cache`); they are warnings.

    Raises:
        CacheError: not a cache, not finished, its index is damaged, or no image can be read.
        IdentityError: the encoder for the sample is not the cache's.
        UsageError: nothing says where the images are, or which encoder to load.
    """
    report = verify_files(path, max_shards=max_shards)
    if not report.ok:
        return report
    cache = open_cache(path)
    if sample is not None and sample.rows:
        report = _resampled(report, cache, sample)
    if checks:
        report = replace(report, warnings=(*report.warnings, *check_cache(cache).lines()))
    return report


def _resampled(report: VerifyReport, cache: Cache, sample: Resample) -> VerifyReport:
    root = _root(cache, sample)
    encoder = _encoder(cache, sample)
    rows = _choose(cache, sample)
    found, warnings = _compare(cache, encoder, rows, root)
    if not found:
        raise CacheError(
            f"none of the {len(rows)} images that were chosen can be compared: {warnings[0]}"
        )
    other = sorted(differences(cache.numerics, encoder.numerics() | {"decoder": "pillow"}))
    keys = [key for key, _ in found]
    values = np.array([cosine for _, cosine in found])
    worst = int(np.argmin(values))
    reencoded = {
        "images": len(found),
        "minimum": float(values[worst]),
        "median": float(np.median(values)),
        "worst": keys[worst],
        "numerics": other,
    }
    text = f"encoded again, {keys[worst]} has cosine {values[worst]:.5f} to its cached features"
    problems = report.problems
    if not values[worst] >= (SIMILAR if {"precision", "decoder"} & set(other) else SAME):
        advice = (
            "the features are not those of these images: check --root, else extract into another "
            "--out"
        )
        problems = (*problems, Problem(f"views/{CENTER}", text, advice))
    elif values[worst] < SAME:
        warnings.append(f"{text}; the numerics differ in {', '.join(other)}")
    return replace(
        report,
        problems=problems,
        warnings=(*report.warnings, *warnings),
        reencoded=reencoded,
    )


def _root(cache: Cache, sample: Resample) -> Any:
    """Return where the images are, as :func:`ltcache.images.open_store` takes it."""
    root: Any = sample.root
    if root is None and sample.source is not None:
        root = read_manifest(sample.source).root
    if root is None:
        raise UsageError(
            f"{cache.path} keeps no images and does not say where they are: name their folder "
            "(--root) or what they were extracted from (--source)"
        )
    return root


def _encoder(cache: Cache, sample: Resample) -> Encoder:
    encoder = sample.encoder
    if encoder is None:
        from ltcache.encoder import load_encoder

        model, pretrained = sample.model, sample.pretrained
        if model is None:
            model, pretrained = named_encoder(cache)
        encoder = load_encoder(
            model,
            pretrained,
            device=sample.device,
            precision=sample.precision or cache.numerics["precision"],
            activation=sample.activation or cache.provenance.get("activation"),
        )
    require_equal(
        "encoder",
        cache.encoder,
        encoder.identity,
        remedy=f"name the encoder that made {cache.path} with --model and --pretrained",
    )
    return encoder


def _choose(cache: Cache, sample: Resample) -> np.ndarray:
    """Return rows of distinct items, int64, ascending."""
    rows = cache.rows()
    items = cache.manifest.rows["item"].to_numpy()[rows]
    distinct = rows[np.unique(items, return_index=True)[1]]
    count = min(sample.rows, len(distinct))
    chosen = np.random.default_rng(sample.seed).choice(distinct, count, replace=False)
    return np.asarray(np.sort(chosen), np.int64)


def _compare(
    cache: Cache, encoder: Encoder, rows: np.ndarray, root: Any
) -> tuple[list[tuple[str, float]], list[str]]:
    """Return (key, least cosine over the fields) of rows, and what could not be compared."""
    result: list[tuple[str, float]] = []
    warnings: list[str] = []
    fields = tuple(name for name in cache.field_dims() if name in encoder.dims)
    for start in range(0, len(rows), _BATCH):
        part, pixels, keys = [], [], []
        for row, key, image in _images(cache, rows[start : start + _BATCH], root, encoder):
            if isinstance(image, str):
                warnings.append(f"{key}: {image}")
                continue
            part.append(row)
            pixels.append(image)
            keys.append(key)
        if part:
            least = _least_cosines(cache, encoder, np.array(part), np.stack(pixels), fields)
            result += zip(keys, least.tolist(), strict=True)
    return result, _first_five(warnings)


def _images(
    cache: Cache, rows: np.ndarray, root: Any, encoder: Encoder
) -> Iterator[tuple[int, str, np.ndarray | str]]:
    """Yield row, key and pixels uint8 (3, H, W), or why there are none."""
    store = open_store(root)
    table = cache.manifest.rows
    for row in rows.tolist():
        key, uri, known = (table[name][row].as_py() for name in ("key", "uri", "sha256"))
        try:
            data = store.read(uri)
            if known and bytes_digest(data) != known:
                yield row, key, "the image is no longer the one that was encoded"
                continue
            yield row, key, decode(data, encoder.preprocessing).pixels
        except ImageError as error:
            yield row, key, str(error)


def _least_cosines(
    cache: Cache, encoder: Encoder, rows: np.ndarray, pixels: np.ndarray, fields: tuple[str, ...]
) -> np.ndarray:
    import torch

    features: Mapping[str, Any] = encoder.encode_images(torch.from_numpy(pixels), fields)
    least = np.ones(len(rows))
    for name in fields:
        least = np.minimum(
            least, cosines(features[name].numpy(), cache.row_features(rows, name)[:, 0])
        )
    return least


def _first_five(texts: list[str]) -> list[str]:
    more = [f"and {len(texts) - 5} more images"] if len(texts) > 5 else []
    return texts[:5] + more
