"""A labelled cache and the pools that are searched for its rare classes, compared and opened."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ltcache.cache import Cache, check_prompts, open_cache
from ltcache.records import require_equal
from ltcache.retrieval.columns import require_sources
from ltcache.retrieval.scoring.cached_queries import make_queries, temperature
from ltcache.retrieval.scoring.pool import CachedPool, JoinedPool
from ltcache.retrieval.scoring.queries import ClassQueries
from ltcache.retrieval.selection import tail_quotas
from ltcache.retrieval.settings import RetrievalSettings

PoolPlace = Cache | str | Path
"""A pool: open already, its folder or its address."""


@dataclass(frozen=True, eq=False)
class TailSearch:
    """What is searched for in which pools, with all that settings leave to the cache filled in.

    Args:
        cache: the labelled cache. pool: all pools as one.
        settings: with temperature and class texts. stale: identity fields that were let pass.
    """

    cache: Cache
    pool: JoinedPool
    settings: RetrievalSettings
    stale: tuple[str, ...] = ()

    @cached_property
    def wanted(self) -> dict[int, int]:
        """Label -> images wanted."""
        return tail_quotas(self.cache, self.settings)

    @cached_property
    def queries(self) -> ClassQueries:
        """What the pools are scored with."""
        return make_queries(self.cache, self.settings)

    @cached_property
    def identities(self) -> Mapping[str, Mapping[str, Any]]:
        """What the cache and the pools are."""
        texts = self.cache.prompts(self.settings.prompts)
        rows = self.cache.manifest.identity()["rows"]
        own = [pool.identity() | {"numerics": pool.cache.numerics} for pool in self.pool.pools]
        return {
            "cache": self.cache.identities(self.settings.view, texts) | {"rows": rows},
            "pool": own[0] if len(own) == 1 else {"pools": own},
        }


def open_search(
    cache: Cache | str | Path,
    pools: PoolPlace | Sequence[PoolPlace],
    settings: RetrievalSettings | None = None,
    allow_stale: Collection[str] = (),
) -> TailSearch:
    """Open a cache and its pools, and compare what made them.

    Raises:
        IdentityError: another encoder made a pool, or the class texts (status 4).
        CacheError: a cache without embeddings or texts. UsageError: pools that cannot be joined, or
            a cap on images of a source where no pool tells any.
    """
    cache = open_cache(cache)
    several = [pools] if isinstance(pools, (Cache, str, Path)) else pools
    opened = [open_cache(pool) for pool in several]
    stale = [name for pool in opened for name in check_pool(cache, pool, allow_stale)]
    settings = settings or RetrievalSettings()
    if settings.per_source is not None and settings.source_column is None:
        require_sources(opened)
    joined = JoinedPool([CachedPool(pool, settings.view) for pool in opened])
    settings = _in_full(settings, cache)
    stale += check_prompts(cache, cache.prompts(settings.prompts), allow_stale)
    return TailSearch(cache, joined, settings, tuple(dict.fromkeys(stale)))


def _in_full(settings: RetrievalSettings, cache: Cache) -> RetrievalSettings:
    """Return settings with what they leave to the cache: the temperature and the class texts."""
    tau = temperature(cache, settings.tau)
    return replace(settings, tau=tau, prompts=cache.prompts(settings.prompts).name)


def check_pool(cache: Cache, pool: Cache, allow_stale: Collection[str] = ()) -> list[str]:
    """Refuse a pool by another encoder; warn of other numerics.

    Returns:
        Identity fields that differ and were let pass.

    Raises:
        IdentityError: with every differing field.
    """
    stale = require_equal(
        "encoder",
        cache.encoder,
        pool.encoder,
        allow_stale=allow_stale,
        remedy=f"extract the pool {pool.path} with the encoder that made {cache.path}",
    )
    loose = require_equal("numerics", cache.numerics, pool.numerics, allow_stale=["numerics"])
    if loose:
        warnings.warn(
            f"the pool's features were computed otherwise ({', '.join(loose)}); p_k can differ in "
            "their last digits",
            stacklevel=3,
        )
    return stale
