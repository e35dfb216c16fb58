"""Finishing a cache whose shards are all there, and nothing else: what is refused before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from ltcache.cache import Layer, Plan, begun_layers, read_plan
from ltcache.errors import CacheError
from ltcache.extract.shard import ShardQueue
from ltcache.manifest import some
from ltcache.records import counted

_SHOWN = 8  # ranges of shards that a message names
_REMEDY = "run the same command without --finalise, or its missing parts, and finish then"


def require_begun(out: Path, plan: Plan | None, layers: Sequence[Layer] = ()) -> None:
    """Refuse to finish what no extraction has begun.

    Args:
        plan: whose images are to be in the cache; None: no new ones. layers: that are to be added.

    Raises:
        CacheError: names what was not begun.
    """
    if plan is not None and read_plan(out, plan.number) is None:
        what = "no extraction was begun" if plan.number == 1 else "new images are not encoded"
        count = counted(plan.items, "image")
        raise CacheError(f"{out}: nothing to finish: {what} ({count} in the list); {_REMEDY}")
    first = read_plan(out)
    known = {layer.folder for layer in begun_layers(out, first)} if first else set()
    if absent := [layer.folder for layer in layers if layer.folder not in known]:
        raise CacheError(f"{out}: nothing to finish: {some(absent)} was not begun; {_REMEDY}")


def require_committed(queue: ShardQueue) -> None:
    """Refuse to finish a cache that lacks shards.

    Raises:
        CacheError: says which, of how many, and how many images they are to hold.
    """
    todo = queue.todo()
    if not todo:
        return
    images = sum(len(queue.plan.item_range(work.shard)) for work in todo)
    numbers = some((_range(*ends) for ends in _runs(work.shard for work in todo)), _SHOWN)
    folders = sorted({folder for work in todo for folder in work.folders})
    raise CacheError(
        f"{queue.out}: cannot be finished: {len(todo)} of {counted(len(queue.numbers), 'shard')} "
        f"are not there: {numbers} of {', '.join(folders)}, with {counted(images, 'image')}; "
        f"{_REMEDY}"
    )


def _runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return the first and the last of each run of consecutive numbers."""
    runs = groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    parts = [[number for _, number in run] for _, run in runs]
    return [(part[0], part[-1]) for part in parts]


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"
