"""Which line of a comparison is best, and which cannot be told from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ltcache.manifest import some
from ltcache.metrics import percent

Comparison = Mapping[str, Any]

NAMED = 12
"""Names in a sentence, at most; the table has all."""
BEST, TIED = "best", "not told from the best"


def best_entry(comparison: Comparison, split: str) -> str:
    """Return the name of the line with the highest statistic on a split; the first of equals."""
    statistic = comparison["statistic"]
    best = max(comparison["entries"], key=lambda entry: entry["scores"][split][statistic]["mean"])
    return str(best["name"])


def standing(comparison: Comparison, split: str) -> dict[str, str | None]:
    """Return name -> ``best``, ``not told from the best``, nothing (it is told), None (unknown)."""
    found: dict[str, str | None] = {}
    best = best_entry(comparison, split)
    for entry in comparison["entries"]:
        difference = entry.get("behind_best", {}).get(split)
        if entry["name"] == best:
            found[entry["name"]] = BEST
        elif difference is None:
            found[entry["name"]] = None
        else:
            found[entry["name"]] = "" if difference["high"] < 0 else TIED
    return found


def verdict(comparison: Comparison, split: str) -> str:
    """Return the sentence that says what can be told from the best line and what cannot."""
    best, stands = best_entry(comparison, split), standing(comparison, split)
    if len(stands) == 1:
        return f"{best} stands alone: there is nothing to tell it from."
    scores = next(e["scores"][split] for e in comparison["entries"] if e["name"] == best)
    mean = percent(scores[comparison["statistic"]]["mean"])
    kinds = {
        "it can be told from": [name for name, stand in stands.items() if stand == ""],
        "it cannot be told from": [name for name, stand in stands.items() if stand == TIED],
        "nothing can be said without the cache of the runs about": [
            name for name, stand in stands.items() if stand is None
        ],
    }
    said = "; ".join(f"{words} {some(names, NAMED)}" for words, names in kinds.items() if names)
    return (
        f"{best} has the highest mean/class of these {len(stands)} on {split} ({mean} %); {said} "
        "(95 % interval of the paired difference over the same images; not corrected for the "
        "number of comparisons)."
    )
