"""What retrieve.json says, read back as it was written; what another version wrote is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltcache.errors import CacheError
from ltcache.retrieval import (
    ExactPass,
    IndexRequest,
    RetrievalResult,
    RetrievalSettings,
    open_retrieved,
    retrieve_tail,
)
from ltcache.retrieval.record import RetrievalRecord
from ltcache.retrieval.review.decisions import (
    ACCEPT,
    REJECT,
    ReviewDecisions,
    apply_decisions,
    retrieval_identity,
)
from tests.retrieval.conftest import CLASSES, World


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> RetrievalResult:
    """Return a stored result, calibrated and decided."""
    world = World(tmp_path_factory.mktemp("world"))
    cache = world.labelled()
    pool = world.pool(cache, np.repeat(np.arange(CLASSES), 12))
    settings = RetrievalSettings(precision=0.9, tau=0.2, per_class=4, groups=("few", "medium"))
    found = retrieve_tail(cache, pool, settings=settings)
    rows = found.table.to_pylist()
    taken = next(row for row in rows if row["status"] == "accepted")
    left = next(row for row in rows if row["reason"] == "quota" and row["key"] != taken["key"])
    chosen = {
        (taken["label"], taken["key"]): REJECT,
        (left["label"], left["key"]): ACCEPT,
    }
    found = apply_decisions(found, ReviewDecisions(retrieval_identity(found), chosen))
    found.save(world.root / "retrieved")
    return found


def stored(result: RetrievalResult) -> dict[str, Any]:
    return json.loads((Path(result.path or "") / "retrieve.json").read_text(encoding="utf-8"))


def test_it_is_read_as_it_was_written(result: RetrievalResult) -> None:
    found = stored(result)
    record = RetrievalRecord.from_dict(found)
    assert record == result.record
    assert json.loads(json.dumps(record.to_dict())) == found
    assert (found["format"], found["key"]) == (1, record.key)
    assert len(found["decisions"]) == 2


def test_it_shows_itself_in_a_notebook(result: RetrievalResult) -> None:
    html, counts = result._repr_html_(), result.counts()
    assert repr(result).startswith(f"RetrievalResult({sum(counts.values())} of ")
    assert html.count("<tr>") == 1 + len(counts)
    for entry in result.classes:
        assert f"<td>{entry.name}</td><td>{counts[entry.label]}</td>" in html


def test_what_ranked_the_pool_is_part_of_the_key(tmp_path: Path) -> None:
    world = World(tmp_path)
    cache = world.labelled()
    pool = world.pool(cache, np.repeat(np.arange(CLASSES), 12))
    rankings = [
        ExactPass(),
        ExactPass(precision="bf16"),
        IndexRequest("flat", factor=1),
        IndexRequest("flat", factor=2),
        IndexRequest("hnsw", factor=2),
    ]
    keys = [retrieve_tail(cache, pool, ranking=ranking).key for ranking in rankings]
    assert len({*keys}) == len(rankings)
    assert retrieve_tail(cache, pool).key == keys[0]
    indexed = retrieve_tail(cache, pool, tmp_path / "indexed", ranking=rankings[2])
    assert open_retrieved(tmp_path / "indexed").key == indexed.key == keys[2]


def test_no_decisions_are_not_written(result: RetrievalResult) -> None:
    plain = apply_decisions(result, ReviewDecisions(retrieval_identity(result), {}))
    assert "decisions" not in plain.record.to_dict()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda found: found.update(format=2), "retrieve.json is of format 2"),
        (lambda found: found.update(colour=1), "retrieve.json has colour, and"),
        (lambda found: found["settings"].update(hue=1, edge=2), "settings has edge, hue, and"),
        (lambda found: found["classes"][1].update(hue=1), "classes has hue, and"),
        (lambda found: found["decisions"][0].update(by="me"), "decisions has by, and"),
        (lambda found: found["thresholds"]["p"].update(x=1), "thresholds.p has x, and"),
        (lambda found: found["thresholds"].update(third={}), "thresholds has third, and"),
    ],
)
def test_what_another_version_wrote_is_refused_and_says_so(
    result: RetrievalResult, change: Callable[[dict[str, Any]], None], named: str, tmp_path: Path
) -> None:
    result.save(tmp_path / "r", overwrite=True)
    found = json.loads((tmp_path / "r" / "retrieve.json").read_text(encoding="utf-8"))
    change(found)
    (tmp_path / "r" / "retrieve.json").write_text(json.dumps(found))
    with pytest.raises(CacheError) as refused:
        open_retrieved(tmp_path / "r")
    told = str(refused.value)
    assert named in told and "a later version wrote it; upgrade" in told
    assert str(tmp_path / "r") in told


@pytest.mark.parametrize("name", ["settings", "identities", "classes", "thresholds", "cache"])
def test_a_record_that_lacks_something_is_damaged(
    result: RetrievalResult, name: str, tmp_path: Path
) -> None:
    result.save(tmp_path / "r", overwrite=True)
    found = json.loads((tmp_path / "r" / "retrieve.json").read_text(encoding="utf-8"))
    del found[name]
    (tmp_path / "r" / "retrieve.json").write_text(json.dumps(found))
    with pytest.raises(CacheError, match="cannot be read"):
        open_retrieved(tmp_path / "r")
