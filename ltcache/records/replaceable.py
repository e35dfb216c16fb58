"""Whether what lies in a place may give way to a new result."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from ltcache.errors import UsageError
from ltcache.records.files import is_vacant, result_folder
from ltcache.records.place_kind import PlaceKind, record_there


@dataclass(frozen=True)
class ReplaceRule:
    """What a new folder of a kind may replace.

    Attributes:
        markers: files, or folders where they end in ``/``, of which an old one has any.
        refusal: what is said of a place without them.
        other: what is said of one with another key; its record fills the names in braces.
        of_file: what is said of a file, where that is something else.
    """

    markers: tuple[str, ...]
    refusal: str
    other: str = ""
    of_file: str = ""


_RULES = {
    PlaceKind.RUN: ReplaceRule(
        ("run.json",),
        "exists and is not a run; choose another --out",
        "another run (method {method!r}, seed {seed})",
    ),
    PlaceKind.ENSEMBLE: ReplaceRule(
        ("ensemble.json",),
        "exists and is not an ensemble; choose another --out",
        "another ensemble",
    ),
    PlaceKind.RETRIEVED: ReplaceRule(
        ("retrieve.json",),
        "exists and is no result of retrieve-tail; choose another --out",
        "a result of other settings, caches or decisions",
    ),
    PlaceKind.INDEX: ReplaceRule(
        ("index.json",), "exists and is no index; choose another --save-index"
    ),
    PlaceKind.CHECKPOINT: ReplaceRule(
        ("ltcache.json",), "exists and is no checkpoint; choose another --out"
    ),
    PlaceKind.ABLATION: ReplaceRule(
        ("runs/", "tuning/"), "exists and is no ablation; choose another --out"
    ),
    PlaceKind.CACHE: ReplaceRule(
        ("plans/",),
        "is not empty and not a cache: choose another --out",
        of_file="is a file: choose another --out",
    ),
}


def require_replaceable(
    place: str | Path, kind: PlaceKind, *, key: str | None = None, overwrite: bool = False
) -> Path:
    """Return a place for a new folder of a kind, if it is vacant or holds an old one.

    Args:
        key: of the new one; None: whatever the old one's is, it may go.
        overwrite: replace one of another key.

    Raises:
        UsageError: something else is there, one of another key, or the place is an address.
    """
    out, rule = result_folder(place), _RULES[kind]
    if is_vacant(out):
        return out
    if not any(_has(out, marker) for marker in rule.markers):
        refusal = rule.refusal if out.is_dir() else rule.of_file or rule.refusal
        raise UsageError(f"{out} {refusal}")
    if key is None or overwrite:
        return out
    there = record_there(out / rule.markers[0])
    if there.get("key") != key:
        said = rule.other.format_map(defaultdict(lambda: None, there))
        raise UsageError(f"{out} holds {said}; choose another --out, or pass --overwrite")
    return out


def _has(out: Path, marker: str) -> bool:
    return (out / marker).is_dir() if marker.endswith("/") else (out / marker).is_file()
