"""What a folder is, and what is said to whoever gives one of another kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ltcache.records.place_kind import (
    PlaceKind,
    describe_place,
    kind_of,
    not_what_is_asked,
    places_in,
)

FILES = {
    PlaceKind.RUN: ["run.json"],
    PlaceKind.SEEDS: ["seed-0/run.json", "seed-10/run.json", "seed-2/run.json", "odd/notes.txt"],
    PlaceKind.RUNS: ["ce/run.json", "la/seed-0/run.json"],
    PlaceKind.ABLATION: ["results.json", "runs/ce-1/seed-0/run.json"],
    PlaceKind.ENSEMBLE: ["ensemble.json"],
    PlaceKind.CACHE: ["cache.json"],
    PlaceKind.RETRIEVED: ["retrieve.json"],
    PlaceKind.INDEX: ["index.json", "index.faiss"],
    PlaceKind.CHECKPOINT: ["ltcache.json"],
    PlaceKind.SAVED_DATASET: ["dataset_dict.json", "ltcache.json"],
    PlaceKind.EXPORT: ["bundle.safetensors"],
}


def _write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize("kind", PlaceKind)
def test_every_kind_is_known_by_its_files(kind: PlaceKind, tmp_path: Path) -> None:
    place = _write(tmp_path / "place", *FILES[kind])
    assert kind_of(place) is kind and kind_of(str(place)) is kind
    if kind is not PlaceKind.SEEDS:
        assert describe_place(place) == kind.value


def test_a_cache_that_is_not_finished_is_a_cache(tmp_path: Path) -> None:
    assert kind_of(_write(tmp_path, "plans/0001.json")) is PlaceKind.CACHE


@pytest.mark.parametrize("names", [[], ["plans/car.png"], ["results.json"], [".a/run.json"]])
def test_other_folders_are_nothing(names: list[str], tmp_path: Path) -> None:
    assert kind_of(_write(tmp_path, *names)) is None
    assert describe_place(tmp_path) == "a folder, but nothing that ltcache wrote"


@pytest.mark.parametrize("name", ["missing", "a\0b", "n" * 300, "file.txt", "s3://bucket/x"])
def test_what_is_no_folder_is_nothing(name: str, tmp_path: Path) -> None:
    _write(tmp_path, "file.txt")
    assert kind_of(tmp_path / name) is None


def test_seeds_are_counted_in_their_order(tmp_path: Path) -> None:
    place = _write(tmp_path, *FILES[PlaceKind.SEEDS])
    assert describe_place(place) == (
        "a folder of 3 runs that differ in the seed (seed-0, seed-2, seed-10)"
    )
    assert [run.name for run in places_in(place, PlaceKind.RUN)] == ["seed-0", "seed-2", "seed-10"]


def test_the_remedy_names_what_lies_in_the_folder(tmp_path: Path) -> None:
    seeds = _write(tmp_path / "la", *FILES[PlaceKind.SEEDS])
    assert f"; give a run, such as {seeds / 'seed-0'}" in not_what_is_asked(seeds, PlaceKind.RUN)
    tuned = _write(tmp_path / "tuned", "ltcache.json", "run/run.json", "cache/cache.json")
    for kind, name in ((PlaceKind.RUN, "run"), (PlaceKind.CACHE, "cache")):
        assert not_what_is_asked(tuned, kind) == (
            f"{tuned} is a checkpoint of an encoder; give {tuned / name}"
        )


def test_the_remedy_names_what_a_record_names(tmp_path: Path) -> None:
    run, cache = _write(tmp_path / "runs" / "la", "run.json"), _write(tmp_path / "c", "cache.json")
    (run / "run.json").write_text(json.dumps({"cache": "../../c"}))
    assert not_what_is_asked(run, PlaceKind.CACHE) == f"{run} is a run; give {cache}"
    mixed = _write(tmp_path / "runs" / "mixed", "ensemble.json")
    (mixed / "ensemble.json").write_text(json.dumps({"members": [{"run": None}, {"run": "../la"}]}))
    assert not_what_is_asked(mixed, PlaceKind.RUN) == f"{mixed} is an ensemble; give {run}"


@pytest.mark.parametrize("text", ["", "[]", '{"members": 3}', '{"members": [{"run": 3}]}'])
def test_a_damaged_record_costs_only_the_hint(text: str, tmp_path: Path) -> None:
    mixed = _write(tmp_path, "ensemble.json")
    (mixed / "ensemble.json").write_text(text)
    assert "is an ensemble; a run is made by" in not_what_is_asked(mixed, PlaceKind.RUN)


def test_what_is_made_of_what(tmp_path: Path) -> None:
    cache = _write(tmp_path / "cache", "cache.json")
    assert f"ltcache fit-adapter {cache} --out RUN" in not_what_is_asked(cache, PlaceKind.RUN)
    export = _write(tmp_path / "export", "export.json")
    assert f"ltcache import {export} --out" in not_what_is_asked(export, PlaceKind.CACHE)
    gone = not_what_is_asked(tmp_path / "gone", PlaceKind.CACHE)
    assert (
        gone == f"{tmp_path / 'gone'} does not exist; make one: ltcache extract FOLDER --out CACHE"
    )
    assert "a file of a cache: give its folder" in not_what_is_asked(
        cache / "cache.json", PlaceKind.CACHE
    )
