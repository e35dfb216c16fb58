"""Signs that a process is at a shard, which the others see: empty files beside the plan.

They are no locks. Who does not see one encodes the shard as well, to the same bytes; one
that a killed process has left puts its shard off to the end, no more
(:func:`ltcache.extract.order.taken_shards`).
So neither a clock nor a sign of life is needed.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ltcache.cache import Plan, plan_path
from ltcache.records import temporary_path


class ShardSigns:
    """The signs of one process, and what it sees of others.

    Args:
        cache: its folder; a cache that is made at an address has one in each process, so that none
            sees another's.
        plan: whose shards they are.
    """

    def __init__(self, cache: Path, plan: Plan) -> None:
        place = plan_path(cache, plan.number)
        self._place = place.with_name(f"{place.stem}-shard")
        self._own: dict[int, Path] = {}

    def of_others(self) -> set[int]:
        """Return the shards that others are at, or were when they were killed."""
        own = {sign.name for sign in self._own.values()}
        found = self._place.parent.glob(f".{self._place.name}-*.tmp-*")
        names = {path.name for path in found} - own
        return {int(name.partition(".tmp-")[0].rpartition("-")[2]) for name in names}

    def put(self, shard: int) -> None:
        """Say that this process is at a shard."""
        sign = temporary_path(self._place.with_name(f"{self._place.name}-{shard}"))
        with suppress(OSError):  # of a full disk, on which the shard cannot be committed either
            sign.touch()
        self._own[shard] = sign

    def remove(self, shard: int) -> None:
        """Say that it no longer is."""
        if sign := self._own.pop(shard, None):
            with suppress(OSError):
                sign.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all signs of this process."""
        for shard in list(self._own):
            self.remove(shard)
