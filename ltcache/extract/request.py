"""What a call of ``extract`` asks for, and what it says before long work."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ltcache.cache import Cache, Layer, Plan, dims_of
from ltcache.errors import CacheError
from ltcache.extract.kept_splits import undivided
from ltcache.extract.report import ExtractionProgress
from ltcache.manifest import Manifest, SplitRecipe
from ltcache.process import LaunchedProcess
from ltcache.records import one_line

if TYPE_CHECKING:
    from ltcache.encoder import Encoder


@one_line
@dataclass(frozen=True, eq=False)
class ExtractRequest:
    """What a call asks for.

    Args:
        out: the cache's directory.
        manifest: the rows that it is to have.
        plan: of a new cache, its images not counted yet.
        views, view_seed, fields: None: those that the cache has, or the defaults of a new one.
        retry_failed: encode images again that failed before.
        rehash: read images again that the cache knows by name.
        workers: decoding threads. decode_processes: what decodes in their place; 0: none.
        part: which of the processes that extract into the cache this one is.
        max_failures: share of failed images above which extraction gives up.
        splitting: how the images are to be divided; None: as they are, or as they were before.
        finish_only: finish what is encoded already, and encode nothing.
        started: when the call began, in seconds of :func:`time.perf_counter`.
    """

    out: Path
    manifest: Manifest
    encoder: Encoder
    plan: Plan
    views: Sequence[str] | None
    view_seed: int | None
    fields: Sequence[str] | None
    retry_failed: bool
    rehash: bool
    workers: int
    part: LaunchedProcess
    max_failures: float
    progress: Callable[[ExtractionProgress], None] | None
    started: float
    splitting: SplitRecipe | None = None
    decode_processes: int = 0
    finish_only: bool = False


def require_list(cache: Cache, *manifests: Manifest) -> None:
    """Refuse a cache that others have brought to another list than these since this call began."""
    lists = [undivided(manifest, cache).identity() for manifest in manifests]
    held = undivided(cache.manifest, cache).identity() if cache.divided else cache.list_identity()
    if held not in lists:
        raise CacheError(
            f"{cache.path}: other processes finished it meanwhile and gave it another list; it was "
            "left as it is. Run the command again to bring the cache to this list"
        )


def warn_of_size(layers: Sequence[Layer], images: int) -> None:
    """Say before the work what tokens are going to take."""
    for layer in layers:
        for shape in (dims_of(shape) for shape in layer.fields.values() if dims_of(shape)[1:]):
            size = images * layer.crops * int(np.prod(shape)) * 2
            warnings.warn(
                f"{layer.folder}: {images} images x {layer.crops} crops x {shape[0]} x {shape[1]} "
                f"values in float16 take {size / 1e9:.2f} GB on disk",
                stacklevel=3,
            )
