"""What a cache has cost so far: one line per working process and shard, never part of the index."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ltcache.records import canonical_json

_COSTS = ("images", "seconds", "finetune_seconds", "finetune_passes")


def add_cost(cache: Path, **cost: float | int | str) -> None:
    """Append one line to the cache's ledger of costs."""
    line = (canonical_json(cost) + "\n").encode()
    descriptor = os.open(cache / "cost.jsonl", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o666)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def read_cost(cache: Path) -> dict[str, float]:
    """Return images encoded and seconds spent, over all processes that worked on the cache.

    ``finetune_seconds`` and ``finetune_passes`` (over the images) are those of tuning its encoder.

    A line that a killed process left half-written is passed over: costs are information, nothing
    depends on them.
    """
    total = dict.fromkeys(_COSTS, 0.0)
    try:
        lines = (cache / "cost.jsonl").read_text().splitlines()
    except OSError:
        return total
    for line in lines:
        try:
            cost = json.loads(line)
        except ValueError:
            continue
        for name in total:
            total[name] += cost.get(name, 0)
    return total
