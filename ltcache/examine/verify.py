"""Is a cache what its index says, and do its images still give its features?

The files and values are checked by :mod:`ltcache.cache.verify` and need nothing but the cache. A
sample of images can be encoded again here: that finds features that were right for another encoder,
other images or another order, which no digest can tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ltcache.cache import (
    AGAIN,
    CENTER,
    Cache,
    CacheDamage,
    VerifyReport,
    check_committed,
    cosines,
    fetched,
    index_path,
    open_cache,
    repair_shards,
    verify_files,
)
from ltcache.encoder import Encoder, EncoderChoice, encoder_of_cache
from ltcache.errors import CacheError, ImageError, UsageError
from ltcache.examine import check_cache
from ltcache.images import (
    PILLOW,
    PartnerRows,
    View,
    decode_views,
    open_store,
    partner_images,
    require_decoder,
)
from ltcache.manifest import image_root, kept_root, root_of
from ltcache.process import activations_kept, threads_of_passes
from ltcache.records import address_of, bytes_digest, differences

SAME = 0.999
"""Least cosine of a feature encoded again (float16 storage costs 1e-6, other threads less)."""

SIMILAR = 0.98
"""Least cosine under another precision or decoder."""

TOKENS = "tokens"
_BATCH = 64  # crops


class FilesCheck(Protocol):
    """Checks the files of a finished cache and what is in them."""

    def __call__(self, path: Path, /, *, max_shards: int | None) -> VerifyReport:
        """Return what was found; raises as :func:`ltcache.cache.verify_files`."""


@dataclass(frozen=True)
class SampleEncoding:
    """How to encode a sample again.

    Args:
        rows: how many images, at most; 0 encodes none.
        source: what the cache was made from; says where the images are.
        root: where they are, if not where the source says.
        encoder: loaded already, or which one to load; by default what the cache names, in the
            precision of the cache.
        seed: of the choice of rows.
    """

    rows: int
    source: str | Path | None = None
    root: str | Path | None = None
    encoder: Encoder | EncoderChoice | None = None
    seed: int = 0


def verify(
    path: str | Path,
    *,
    max_shards: int | None = None,
    sample: SampleEncoding | None = None,
    checks: bool = False,
    repair: bool = False,
    check_files: FilesCheck = verify_files,
) -> VerifyReport:
    """Check a cache's files, their contents, and a sample of its features.

    Args:
        path: of the cache.
        max_shards: read at most so many shards of each view; all by default.
        sample: encode some of the images again and compare.
        checks: also look for labels that seem permuted, names that repeat and images that are in
            several splits (:func:`ltcache.examine.check_cache`); they are warnings.
        repair: remove the records of damaged shards, so that the next extraction encodes exactly
            these again; nothing else is touched.
        check_files: of a finished cache; :func:`ltcache.cache.verify_on_ray` does it by several
            processes, of a cache that all of them see.

    Of a cache that is not finished the committed shards are checked. One at an address is fetched
    for it into a temporary folder, file by file, so that it is what lies there that is checked.

    Raises:
        CacheError: not a cache, its index is damaged, or no image can be read.
        IdentityError: the encoder for the sample is not the cache's.
        UsageError: nothing says where the images are, or which encoder to load.
    """
    if address := address_of(path):
        if repair:
            raise UsageError(f"{address}: caches at addresses are only read: no --repair")
        if check_files is not verify_files:
            raise UsageError(
                f"{address}: what lies there is fetched by this process alone, to be checked: no "
                "--engine"
            )
        with fetched(address) as here:
            try:
                found = verify(here, max_shards=max_shards, sample=sample, checks=checks)
            except CacheError as error:
                raise CacheError(str(error).replace(str(here), address)) from None
        return replace(found, path=address)
    path = Path(path)
    if index_path(path).exists():
        report = check_files(path, max_shards=max_shards)
    else:
        report = _unfinished(path)
    if repair and not report.ok:
        removed = repair_shards(path, [problem.file for problem in report.problems])
        report = replace(report, repaired=tuple(removed))
    if not report.ok or not report.finished:
        return report
    cache = open_cache(path)
    if sample is not None and sample.rows:
        report = _resampled(report, cache, sample)
    if checks:
        report = replace(report, warnings=(*report.warnings, *check_cache(cache).lines()))
    return report


def _unfinished(path: Path) -> VerifyReport:
    """Check what is committed of a cache that has no index."""
    found = check_committed(path)
    return VerifyReport(
        path=path,
        files=2 * found.shards,
        bytes=found.bytes,
        shards=found.shards,
        all_shards=found.all_shards,
        problems=tuple(CacheDamage(file, text, AGAIN) for file, text in found.problems),
        finished=False,
        items=found.items,
        all_items=found.all_items,
    )


def _resampled(report: VerifyReport, cache: Cache, sample: SampleEncoding) -> VerifyReport:
    root = _root(cache, sample)
    encoder = _encoder(cache, sample)
    rows = _choose(cache, sample)
    with threads_of_passes(cache.numerics.get("threads")), activations_kept():
        found, warnings = _compare(cache, encoder, rows, root)
        now = {**encoder.numerics(), "decoder": _decoder(cache, encoder)}
    if not found:
        raise CacheError(
            f"none of the {len(rows)} images that were chosen can be compared: {warnings[0]}"
        )
    other = sorted(differences(cache.numerics, now))
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
        problems = (*problems, CacheDamage(f"views/{CENTER}", text, advice))
    elif values[worst] < SAME:
        warnings.append(f"{text}; the numerics differ in {', '.join(other)}")
    return replace(
        report,
        problems=problems,
        warnings=(*report.warnings, *warnings),
        reencoded=reencoded,
    )


def _root(cache: Cache, sample: SampleEncoding) -> Any:
    """Return where the images are, as :func:`ltcache.images.open_store` takes it."""
    root: Any = sample.root
    if root is None and sample.source is not None:
        root = root_of(sample.source)
    root = root or image_root(cache.path, cache.manifest.name)
    if root is None:
        kept = kept_root(cache.path)
        says = "does not say where they are"
        if kept is not None:
            says = f"says that they are at {kept}, which is not there"
        raise UsageError(
            f"{cache.path} keeps no images and {says}: "
            "name their folder (--root) or what they were extracted from (--source)"
        )
    return root


def _encoder(cache: Cache, sample: SampleEncoding) -> Encoder:
    """Return the cache's encoder, in the precision of the cache where none is asked for."""
    encoder = sample.encoder or EncoderChoice()
    if isinstance(encoder, EncoderChoice) and encoder.precision is None:
        encoder = replace(encoder, precision=cache.numerics["precision"])
    return encoder_of_cache(cache, encoder)


def _decoder(cache: Cache, encoder: Encoder) -> str:
    """Return the decoder that the cache's images went through, Pillow where it is not here."""
    name = str(cache.numerics.get("decoder", PILLOW))
    try:
        require_decoder(name, encoder.device.type, 0)
    except UsageError:
        return PILLOW
    return name


def _choose(cache: Cache, sample: SampleEncoding) -> np.ndarray:
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
    """Return (key, least cosine over views and fields) of rows, and what could not be compared."""
    result: list[tuple[str, float]] = []
    warnings: list[str] = []
    views = [View.from_identity(cache.identities(name)["view"]) for name in cache.views]
    size = max(1, _BATCH // sum(view.crops for view in views))
    for start in range(0, len(rows), size):
        part, pixels, keys = [], [], []
        for row, key, image in _images(cache, rows[start : start + size], root, encoder, views):
            if isinstance(image, str):
                warnings.append(f"{key}: {image}")
                continue
            part.append(row)
            pixels.append(image)
            keys.append(key)
        if part:
            least = np.ones(len(part))
            for view in views:
                crops = np.stack([image[view.name] for image in pixels])  # (n, v, 3, H, W)
                found = _least_cosines(cache, encoder, np.array(part), crops, view.name)
                least = np.minimum(least, found)
            result += zip(keys, least.tolist(), strict=True)
    return result, _first_five(warnings)


def _images(
    cache: Cache, rows: np.ndarray, root: Any, encoder: Encoder, views: Sequence[View]
) -> Iterator[tuple[int, str, Mapping[str, np.ndarray] | str]]:
    """Yield row, key and view -> pixels uint8 (v, 3, H, W), or why there are none."""
    store, decoder = open_store(root), _decoder(cache, encoder)
    table, partners, how = cache.manifest.rows, None, encoder.preprocessing
    if any(view.composite for view in views):
        partners = partner_images(PartnerRows.of(table), store.read, how, decoder)
    for row in rows.tolist():
        key, uri, known = (table[name][row].as_py() for name in ("key", "uri", "sha256"))
        try:
            data = store.read(uri)
            content = bytes_digest(data)
            if known and content != known:
                yield row, key, "the image is no longer the one that was encoded"
                continue
            yield row, key, decode_views(data, how, views, content, partners, decoder).pixels
        except ImageError as error:
            yield row, key, str(error)


def _least_cosines(
    cache: Cache, encoder: Encoder, rows: np.ndarray, crops: np.ndarray, view: str
) -> np.ndarray:
    """Return the least cosine over crops and fields of each row, for one view."""
    import torch

    shapes = cache.field_shapes(view)
    fields = tuple(n for n in shapes if n in encoder.dims or (n == TOKENS and encoder.token_shape))
    least = np.ones(len(rows))
    stored = {name: cache.row_features(rows, name, view) for name in fields}
    for crop in range(crops.shape[1]):
        pixels = torch.from_numpy(np.ascontiguousarray(crops[:, crop]))
        found: Mapping[str, Any] = encoder.encode_images(pixels, fields)
        for name in fields:
            mine, theirs = found[name].flatten(1).numpy(), stored[name][:, crop]
            least = np.minimum(least, cosines(mine, theirs.reshape(len(rows), -1)))
    return least


def _first_five(texts: list[str]) -> list[str]:
    more = [f"and {len(texts) - 5} more images"] if len(texts) > 5 else []
    return texts[:5] + more
