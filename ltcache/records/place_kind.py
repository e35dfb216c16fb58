"""What a folder is: a run, several seeds of one, a cache and so on, known by the files in it.

Whoever is given a folder of another kind than the one that is asked for says so in the words of
:func:`not_what_is_asked`: what is there instead, and what to give or to do.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any


class PlaceKind(Enum):
    """What ltcache writes as a folder; the value is what it is called in messages."""

    RUN = "a run"
    SEEDS = "a folder of runs that differ in the seed"
    RUNS = "a folder of runs"
    ABLATION = "an ablation"
    ENSEMBLE = "an ensemble"
    CACHE = "a cache"
    RETRIEVED = "a result of retrieve-tail"
    INDEX = "a FAISS index"
    CHECKPOINT = "a checkpoint of an encoder"
    SAVED_DATASET = "a saved data set"
    EXPORT = "an export"


# the files that a folder of a kind has; of alternatives, any. The first kind that fits is meant.
_MARKERS: tuple[tuple[PlaceKind, tuple[tuple[str, ...], ...]], ...] = (
    (PlaceKind.RUN, (("run.json",),)),
    (PlaceKind.ENSEMBLE, (("ensemble.json",),)),
    (PlaceKind.CACHE, (("cache.json",), ("plans/0001.json",))),  # without an index: unfinished
    (PlaceKind.RETRIEVED, (("retrieve.json",),)),
    (PlaceKind.INDEX, (("index.json", "index.faiss"),)),
    (PlaceKind.SAVED_DATASET, (("dataset_dict.json",), ("dataset_info.json", "state.json"))),
    (PlaceKind.CHECKPOINT, (("ltcache.json",), ("open_clip_config.json",))),
    (PlaceKind.EXPORT, (("export.json",), ("bundle.safetensors",), ("model.onnx", "model.json"))),
)

OF_RUNS = (PlaceKind.SEEDS, PlaceKind.RUNS, PlaceKind.ABLATION, PlaceKind.ENSEMBLE)
"""Kinds that consist of runs."""

_SHOWN = 3  # folders that a message names


def kind_of(path: str | Path) -> PlaceKind | None:
    """Return what a folder is; None where it is nothing that ltcache writes, or is not there."""
    path = Path(path)
    if not os.path.isdir(path):
        return None
    own = _own_kind(path)
    if own is not None:
        return own
    if os.path.isfile(path / "results.json") and os.path.isdir(path / "runs"):
        return PlaceKind.ABLATION
    folders = list(_folders(path))
    if any(_is_seed(folder) for folder in folders):
        return PlaceKind.SEEDS
    if any(_holds_run(folder) for folder in folders):
        return PlaceKind.RUNS
    return None


def seed_folders(path: str | Path) -> list[Path]:
    """Return the runs in a folder of seeds, in the order of their seeds."""
    found = [folder for folder in _folders(Path(path)) if _is_seed(folder)]
    return sorted(found, key=lambda folder: int(folder.name.removeprefix("seed-")))


def places_in(path: str | Path, kind: PlaceKind) -> list[Path]:
    """Return the folders of a kind in a folder, by name; of runs also those of its folders of runs.

    Only what ltcache itself writes is looked into.
    """
    if kind is PlaceKind.RUN and (seeds := seed_folders(path)):
        return seeds
    found: list[Path] = []
    for folder in _folders(Path(path)):
        there = kind_of(folder)
        if there is kind:
            found.append(folder)
        elif kind is PlaceKind.RUN and there in (PlaceKind.SEEDS, PlaceKind.RUNS):
            found += places_in(folder, kind)
    return found


def describe_place(path: str | Path) -> str:
    """Return what is at a place, in words that follow "there is" or "it is"."""
    path = Path(path)
    kind = kind_of(path)
    if kind is PlaceKind.SEEDS:
        names = [folder.name for folder in seed_folders(path)]
        return f"a folder of {len(names)} runs that differ in the seed ({_listed(names)})"
    if kind is not None:
        return kind.value
    if os.path.isdir(path):
        return "a folder, but nothing that ltcache wrote"
    if os.path.isfile(path):
        above = kind_of(path.parent)
        return "a file" if above is None else f"a file of {above.value}: give its folder"
    return "nothing"


def not_what_is_asked(path: str | Path, wanted: PlaceKind) -> str:
    """Return what to say of a place that is not of the kind that is asked for, with the remedy."""
    path = Path(path)
    there = describe_place(path)
    said = f"{path} does not exist" if there == "nothing" else f"{path} is {there}"
    return f"{said}; {_remedy(path, wanted)}"


def _remedy(path: Path, wanted: PlaceKind) -> str:
    found = places_in(path, wanted) if os.path.isdir(path) else []
    if found:
        such = f"{wanted.value}, such as {found[0]}" if len(found) > 1 else str(found[0])
        return f"give {such}"
    named = list(_named_in(path, wanted))
    if named:
        return f"give {named[0]}"
    return _MADE_BY.get((wanted, kind_of(path)), _MADE_BY[wanted, None]).format(path=path)


# what is asked for, what is there -> what to do
_MADE_BY: dict[tuple[PlaceKind, PlaceKind | None], str] = {
    (PlaceKind.RUN, None): "a run is made by ltcache fit-adapter CACHE --out RUN",
    (PlaceKind.RUN, PlaceKind.CACHE): "fit a run on it: ltcache fit-adapter {path} --out RUN",
    (PlaceKind.CACHE, None): "make one: ltcache extract FOLDER --out CACHE",
    (PlaceKind.CACHE, PlaceKind.EXPORT): "make one of it: ltcache import {path} --out CACHE",
    (PlaceKind.CACHE, PlaceKind.SAVED_DATASET): (
        "make one of it: ltcache extract {path} --out CACHE"
    ),
    (PlaceKind.CACHE, PlaceKind.CHECKPOINT): (
        "make one with it: ltcache extract FOLDER --model local-dir:{path} --out CACHE"
    ),
    (PlaceKind.CACHE, PlaceKind.RETRIEVED): (
        "it goes into a fit: ltcache fit-adapter CACHE --extra {path} --out RUN"
    ),
    (PlaceKind.RETRIEVED, None): "make one: ltcache retrieve-tail CACHE POOL_CACHE --out RETRIEVED",
    (PlaceKind.INDEX, None): "make one: ltcache retrieve-tail ... --save-index INDEX",
}


def _named_in(path: Path, wanted: PlaceKind) -> Iterator[Path]:
    """Yield places of the kind that is asked for which a run or an ensemble names."""
    if wanted is PlaceKind.CACHE:
        runs = [path] if kind_of(path) is PlaceKind.RUN else places_in(path, PlaceKind.RUN)
        named = [(run, record_there(run / "run.json").get("cache")) for run in runs]
    elif wanted is PlaceKind.RUN:
        members = record_there(path / "ensemble.json").get("members")
        named = [
            (path, member.get("run"))
            for member in (members if isinstance(members, list) else [])
            if isinstance(member, dict)
        ]
    else:
        return
    for above, name in named:
        place = Path(os.path.normpath(above / name)) if isinstance(name, str) else None
        if place is not None and kind_of(place) is wanted:
            yield place


def record_there(path: Path) -> Mapping[str, Any]:
    """Return the JSON object in a file, or an empty one where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _own_kind(path: Path) -> PlaceKind | None:
    """Return what the files of a folder make it, whatever folders lie in it."""
    for kind, alternatives in _MARKERS:
        if any(all(os.path.isfile(path / name) for name in names) for names in alternatives):
            return kind
    return None


def _holds_run(folder: Path) -> bool:
    """Whether a folder is a run, or the folder of the seeds of one."""
    return os.path.isfile(folder / "run.json") or os.path.isfile(folder / "seed-0" / "run.json")


def _is_seed(folder: Path) -> bool:
    number = folder.name.removeprefix("seed-")
    return number != folder.name and number.isdecimal() and os.path.isfile(folder / "run.json")


def _folders(path: Path) -> Iterator[Path]:
    """Yield the folders in a folder, by name; none where it cannot be read."""
    try:
        found = sorted(path.iterdir())
    except OSError:
        return
    yield from (folder for folder in found if folder.name[0] != "." and os.path.isdir(folder))


def _listed(names: list[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
