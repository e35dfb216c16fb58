"""Guesses at why listed images are not where the list says, each tried on a sample of them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ltcache.manifest.roots.root_format import RootFormat

_SAMPLE = 100
_FOLDERS = 50
Exists = Callable[[str], bool]


def layout_hint(holder: RootFormat, missing: Sequence[str], exists: Exists) -> str:
    """Return a sentence on the layout that would find most of ``missing``, or an empty text.

    Args:
        holder: what was searched.
        missing: uris that are not there.
        exists: whether a uri below ``root`` is there.
    """
    sample = missing[:: max(1, len(missing) // _SAMPLE)][:_SAMPLE]
    best, hint = 0, ""
    for sentence, found in _guesses(holder, sample, exists):
        if found > best:
            best, hint = found, sentence
    if not hint:
        return ""
    share = "all" if best == len(sample) else f"{best} of {len(sample)}"
    return f"hint: {hint} ({share} of the missing ones that were tried are there)"


def _guesses(
    holder: RootFormat, sample: Sequence[str], exists: Exists
) -> Iterator[tuple[str, int]]:
    """Yield (sentence, number of the sample that it explains)."""
    root = holder.root
    first = _common_first(sample)
    if isinstance(root, Path) and root.is_dir():
        up = root.resolve().parent
        found = sum(os.path.isfile(up / uri) for uri in sample)
        yield f"the root is one level too low: give --root {up}", found
    if first:
        found = sum(exists(uri.partition("/")[2]) for uri in sample)
        yield f"the files lie without the leading {first + '/'!r}: the root is too low", found
    for folder in sorted(holder.top_folders())[:_FOLDERS]:
        found = sum(exists(f"{folder}/{uri}") for uri in sample)
        yield f"the root is one level too high: the files lie below {folder + '/'!r}", found
    for sentence, moved in _REWRITES:
        yield sentence, sum(any(exists(other) for other in moved(uri)) for uri in sample)


def _common_first(sample: Sequence[str]) -> str:
    firsts = {uri.partition("/")[0] if "/" in uri else "" for uri in sample}
    return firsts.pop() if len(firsts) == 1 else ""


def _to_places_v2(uri: str) -> Iterator[str]:
    """Yield ``data_256/a/airfield/1.jpg`` for ``train/airfield/1.jpg``, ``val_256/1.jpg`` too."""
    parts = uri.split("/")
    if len(parts) == 3 and parts[1]:
        _, folder, name = parts
        for inner in (folder, folder.replace("-", "/")):
            yield f"data_256/{folder[0]}/{inner}/{name}"
        yield f"val_256/{name}"


def _to_places_easy(uri: str) -> Iterator[str]:
    """Yield ``train/airfield/1.jpg`` for ``data_256/a/airfield/1.jpg``."""
    parts = uri.split("/")
    if len(parts) >= 4 and len(parts[1]) == 1:
        yield f"train/{'-'.join(parts[2:-1])}/{parts[-1]}"


def _flat(uri: str) -> Iterator[str]:
    """Yield ``val/1.jpg`` for ``val/n01440764/1.jpg``."""
    parts = uri.split("/")
    if len(parts) >= 3:
        yield "/".join([*parts[:-2], parts[-1]])


def _other_suffix(uri: str) -> Iterator[str]:
    stem, dot, suffix = uri.rpartition(".")
    if dot:
        for other in ("jpg", "jpeg", "JPEG", "JPG", "png", "webp"):
            if other != suffix:
                yield f"{stem}.{other}"


def _other_unicode(uri: str) -> Iterator[str]:
    for form in ("NFC", "NFD"):
        if (other := unicodedata.normalize(form, uri)) != uri:
            yield other


def _other_case(uri: str) -> Iterator[str]:
    for other in (uri.lower(), uri.upper()):
        if other != uri:
            yield other


_REWRITES: tuple[tuple[str, Callable[[str], Iterator[str]]], ...] = (
    (
        "the list is for Places' 'train/airfield/...' folders, the files lie as "
        "'data_256/a/airfield/...': use the list of that layout",
        _to_places_v2,
    ),
    (
        "the list is for Places' 'data_256/a/airfield/...' folders, the files lie as "
        "'train/airfield/...': use the list of that layout",
        _to_places_easy,
    ),
    ("the files lie flat, without class folders: sort them into class folders", _flat),
    ("the files have another suffix than in the list", _other_suffix),
    ("the names are written in another Unicode form (NFC, NFD)", _other_unicode),
    ("the names differ in upper and lower case", _other_case),
)
