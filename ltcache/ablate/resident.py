"""A cache that is read once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from ltcache.cache import Cache

_READS = ("features", "labels", "rows", "column", "class_counts", "prompts", "field_dims")


class ResidentCache:
    """A cache whose arrays are kept in memory after the first time they are asked for.

    They are shared: who changes one changes it for all.
    """

    def __init__(self, cache: Any) -> None:
        self._cache = cache
        self._kept: dict[Any, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return ResidentCache, (self._cache,)  # who gets it reads what it needs

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # unpickling asks before there is a cache
            raise AttributeError(name)
        found = getattr(self.__dict__["_cache"], name)
        if name not in _READS:
            return found

        def read(*arguments: Any, **named: Any) -> Any:
            key = (name, arguments, tuple(sorted(named.items())))
            if key not in self._kept:
                self._kept[key] = found(*arguments, **named)
            return self._kept[key]

        return read


def resident(cache: Cache) -> Cache:
    """Return a cache that reads each array once."""
    return cache if isinstance(cache, ResidentCache) else cast("Cache", ResidentCache(cache))
