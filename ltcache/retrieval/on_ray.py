"""A retrieval by actors of a Ray cluster, each of which ranks a part of the pool."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from ltcache.cache import place_of
from ltcache.process import ActorRequest
from ltcache.records import PartialResult, PlaceKind, parts_on_ray, require_replaceable
from ltcache.retrieval.parts import merged, ranked_part
from ltcache.retrieval.result import RetrievalResult
from ltcache.retrieval.settings import RetrievalSettings


def retrieve_on_ray(
    cache: str | Path,
    pools: Sequence[str | Path],
    out: str | Path | None = None,
    settings: RetrievalSettings | None = None,
    *,
    request: ActorRequest | None = None,
    device: str = "cpu",
    allow_stale: Collection[str] = (),
    overwrite: bool = False,
) -> RetrievalResult:
    """Choose images of a pool for the rare classes of a cache; the result of one pass, to the bit.

    Args:
        cache, pools: places that are the same on all machines.
        out, settings, allow_stale, overwrite: as of :func:`ltcache.retrieval.retrieve_tail`.
        request: how many actors, and what they import.
        device: of each actor: ``cpu``, ``cuda``, or ``auto``, which takes a GPU where there is one.

    Raises:
        UsageError, IdentityError, CacheError: as of :func:`ltcache.retrieval.retrieve_tail` and
            :func:`ltcache.records.parts_on_ray`.
    """
    if out is not None:
        require_replaceable(out, PlaceKind.RETRIEVED)
    places = [place_of(Path(place)) for place in pools]
    rank = partial(_rank, place_of(Path(cache)), places, settings, device, tuple(allow_stale))
    named, gpus = ", ".join(places), device != "cpu"
    parts = parts_on_ray(rank, named, request or ActorRequest(), gpus=gpus)
    return merged(parts, out, overwrite)


def _rank(
    labelled: str,
    pools: Sequence[str],
    settings: RetrievalSettings | None,
    device: str,
    allow_stale: tuple[str, ...],
    part: str,
) -> PartialResult:
    """Rank a part on the device that this actor has."""
    from ltcache.encoder import choose_device

    chosen = str(choose_device(device))
    return ranked_part(labelled, pools, part, settings, device=chosen, allow_stale=allow_stale)
