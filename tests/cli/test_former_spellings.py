"""What ``ltcache retrieve-tail`` did before search and review were commands works, with a note."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from ltcache.retrieval import open_retrieved
from ltcache.retrieval.review.decisions import retrieval_identity
from tests.conftest import Call
from tests.retrieval.looks import Shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def decisions(shop: Shop, tmp_path: Path) -> Path:
    """Return a file that rejects the first image that was taken."""
    taken = shop.result.accepted.to_pylist()[0]
    chosen = {"label": taken["label"], "key": taken["key"], "decision": "reject"}
    content = {"retrieval": retrieval_identity(shop.result), "decisions": [chosen]}
    path = tmp_path / "my decisions.json"
    path.write_text(json.dumps({"format": 1, **content}))
    return path


def told(err: str) -> list[str]:
    """Return the words that the note says to type, after ``ltcache``."""
    (note,) = [line for line in err.splitlines() if line.startswith("note: retrieve-tail ")]
    return shlex.split(note.partition("type: ltcache ")[2])


def strings(*words: object) -> list[str]:
    return [str(word) for word in words]


def test_a_search_is_run_by_the_command_that_the_note_names(
    call: Call, few_images: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "a cache"
    assert call("extract", few_images, "--out", cache)[0] == 0
    image = next(few_images.rglob("*.png"))
    query = ("--text", "a 'red' fox", "--text", "moth", "--image", image, "--top", 3, "--json")
    status, before, err = call("retrieve-tail", cache, *query)
    assert status == 0, err
    assert len(json.loads(before)) == 9
    assert told(err)[:2] == ["search", str(cache)]
    assert sorted(told(err)) == sorted(strings("search", cache, *query))
    assert call(*told(err))[1] == before


def test_a_review_is_run_by_the_command_that_the_note_names(
    call: Call, shop: Shop, decisions: Path
) -> None:
    status, text, err = call("retrieve-tail", "--apply", shop.out, "--decisions", decisions)
    assert (status, "0 accepted and 1 rejected by hand" in text) == (0, True), err
    assert told(err) == strings("review", shop.out, "--decisions", decisions)
    places = ("--source", shop.images, "--pool-source", shop.pool_images)
    status, _, err = call(
        "retrieve-tail", shop.cache.path, "--apply", shop.out, "--gallery", *places
    )
    assert (status, (shop.out / "gallery.html").exists()) == (0, True)
    assert sorted(told(err)) == sorted(
        strings("review", shop.out, shop.cache.path, "--gallery", *places)
    )
    assert call(*told(err))[0] == 0


@pytest.mark.parametrize(
    "former",
    [("--gallery",), (), ("--decisions",), ("--gallery", "--decisions")],
    ids=" ".join,
)
def test_a_retrieval_that_goes_on_to_a_review(
    call: Call, shop: Shop, decisions: Path, tmp_path: Path, former: tuple[str, ...]
) -> None:
    out = tmp_path / "r"
    words = [word for name in former for word in (name, decisions)[: 1 + (name == "--decisions")]]
    shown = "--gallery" in former or not former
    if shown:
        words += ["--source", shop.images, "--pool-source", shop.pool_images]
    retrieve = ("retrieve-tail", shop.cache.path, shop.pool.path, "--out", out, "--per-class", 4)
    status, _, err = call(*retrieve, *words)
    assert status == 0, err
    assert (out / "gallery.html").exists() == shown
    record = open_retrieved(out).record
    assert len(record.decisions) == ("--decisions" in former)
    assert told(err)[:2] == strings("review", out)
    assert call(*retrieve, *words)[0] == 0  # the same again is no conflict
    again, text, err = call(*told(err), "--json")
    assert again == 0, err
    assert json.loads(text).get("decisions") == record.to_dict().get("decisions")


def test_a_retrieval_that_draws(
    call: Call, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltcache.retrieval.write_tsne", lambda result, cache: result.path)
    caches = (shop.cache.path, shop.pool.path)
    status, _, err = call("retrieve-tail", *caches, "--out", tmp_path / "r", "--tsne")
    assert (status, f"{tmp_path / 'r'}: t-SNE" in err) == (0, True)
    assert told(err) == strings("review", tmp_path / "r", shop.cache.path, "--tsne")


def test_what_they_refused_is_refused(call: Call, shop: Shop, tmp_path: Path) -> None:
    caches = (shop.cache.path, shop.pool.path)
    out = ("--out", tmp_path / "r")
    for words, reason in (
        ((*caches, *out, "--top", 3), "--top has no effect without --text or --image"),
        ((shop.pool.path, "--text", "a fox", "--labels", "1"), "--labels"),
        ((*caches, "--text", "a fox"), "unexpected extra argument"),
        (("--apply", shop.out, *out, "--tsne"), "--out"),
        ((*caches, *out, "--gallery"), "say where they are, --pool-source"),
        ((*caches, *out, "--no-gallery", "--source", "x"), "has no effect with --no-gallery"),
    ):
        status, shown, err = call("retrieve-tail", *words)
        assert (status, shown, reason in err) == (2, "", True), (words, err)
    assert not (tmp_path / "r").exists()
    status, _, err = call("retrieve-tail", *caches, *out, "--no-gallery")
    assert (status, "--no-gallery is not needed" in err) == (0, True)
