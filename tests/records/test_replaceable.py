"""What may give way to a new folder of results, and what is said of the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ltcache.errors import UsageError
from ltcache.records import PlaceKind, require_replaceable

MARKERS = {
    PlaceKind.RUN: "run.json",
    PlaceKind.ENSEMBLE: "ensemble.json",
    PlaceKind.RETRIEVED: "retrieve.json",
    PlaceKind.INDEX: "index.json",
    PlaceKind.CHECKPOINT: "ltcache.json",
    PlaceKind.ABLATION: "tuning/x.json",
    PlaceKind.CACHE: "plans/0001.json",
}
KEYED = [PlaceKind.RUN, PlaceKind.ENSEMBLE, PlaceKind.RETRIEVED]


def _write(path: Path, text: str = "{}") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("kind", MARKERS)
def test_a_vacant_place_and_an_old_one_of_the_kind_may_go(kind: PlaceKind, tmp_path: Path) -> None:
    assert require_replaceable(tmp_path / "new", kind, key="a") == tmp_path / "new"
    (tmp_path / "new").mkdir()
    require_replaceable(tmp_path / "new", kind, key="a")
    _write(tmp_path / "new" / MARKERS[kind])
    require_replaceable(tmp_path / "new", kind)


@pytest.mark.parametrize("kind", MARKERS)
def test_anything_else_stays(kind: PlaceKind, tmp_path: Path) -> None:
    _write(tmp_path / "mine" / "thesis.txt")
    for place in (tmp_path / "mine", tmp_path / "mine" / "thesis.txt"):
        with pytest.raises(UsageError, match=r"(is a file|is no|not an?)\b.*choose another --"):
            require_replaceable(place, kind, overwrite=True)
    with pytest.raises(UsageError, match="folders of this machine only"):
        require_replaceable("s3://bucket/mine", kind)


@pytest.mark.parametrize("kind", KEYED)
@pytest.mark.parametrize("there", [json.dumps({"key": "b"}), "[]", "{"])
def test_one_of_another_key_or_a_damaged_one_goes_when_told_to(
    kind: PlaceKind, there: str, tmp_path: Path
) -> None:
    _write(tmp_path / MARKERS[kind], there)
    with pytest.raises(UsageError, match="holds an?(other)? .* pass --overwrite"):
        require_replaceable(tmp_path, kind, key="a")
    require_replaceable(tmp_path, kind, key="a", overwrite=True)
    _write(tmp_path / MARKERS[kind], json.dumps({"key": "a"}))
    require_replaceable(tmp_path, kind, key="a")
