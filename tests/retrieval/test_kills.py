"""Index, result, decisions and gallery: the old or the new, whole, wherever a kill falls."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ltcache.records import mend
from ltcache.retrieval import (
    CachedPool,
    RetrievalSettings,
    apply_decisions,
    build_index,
    make_queries,
    open_index,
    open_retrieved,
    retrieve_tail,
    write_gallery,
)
from ltcache.retrieval.review.decisions import REJECT, ReviewDecisions, retrieval_identity
from tests.records.test_files import content, killed, temporaries
from tests.retrieval.conftest import CLASSES, World

Write = Callable[[Path], object]
Kind = tuple[Write, Write, Write]
"""What writes the old, what writes the new in its place, and what reads either."""


class Shop:
    """A cache, a pool and a result."""

    def __init__(self, root: Path) -> None:
        world = World(root)
        self.cache = world.labelled()
        self.pool = world.pool(self.cache, np.repeat(np.arange(CLASSES), 4))
        self.result = retrieve_tail(
            self.cache, self.pool, settings=RetrievalSettings(per_class=2, labels=(4, 5))
        )


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"))


def indices(shop: Shop) -> Kind:
    pool = CachedPool(shop.pool)
    queries = make_queries(shop.cache, RetrievalSettings())
    old, new = (build_index(pool, queries, kind, top=5) for kind in ("flat", "hnsw"))
    assert old is not None and new is not None
    return old.save, new.save, lambda out: open_index(out, pool)


def results(shop: Shop) -> Kind:
    other = retrieve_tail(shop.cache, shop.pool, settings=RetrievalSettings(per_class=1))
    return shop.result.save, lambda out: other.save(out, overwrite=True), open_retrieved


def decisions(shop: Shop) -> Kind:
    """A result with its gallery, and the same after a person has rejected an image."""
    taken = shop.result.accepted.to_pylist()[0]
    chosen = {(taken["label"], taken["key"]): REJECT}
    identity = retrieval_identity(shop.result)
    decided = apply_decisions(shop.result, ReviewDecisions(identity, chosen))

    def before(out: Path) -> None:
        shop.result.save(out)
        (out / "gallery.html").write_text("a page")

    return before, lambda out: decided.save(out, True, keep=["gallery.html"]), open_retrieved


def galleries(shop: Shop) -> Kind:
    """A page, and another of the same result, without pictures, which take long."""

    def before(out: Path) -> None:
        shop.result.save(out)
        (out / "gallery.html").write_text("a page")

    return before, lambda out: write_gallery(open_retrieved(out), shop.cache), open_retrieved


@pytest.mark.parametrize("kind", [indices, results, decisions, galleries])
def test_a_kill_at_any_step_leaves_the_old_or_the_new(
    shop: Shop, kind: Callable[[Shop], Kind], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # slow, and a kill loses no write
    write_old, write_new, read = kind(shop)
    write_old(tmp_path / "old")
    old = content(tmp_path / "old")
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    write_new(tmp_path / "new")
    new = content(tmp_path / "new")
    assert old != new
    seen: list[bool] = []
    died = True
    while died:
        out = tmp_path / str(len(seen)) / "place"
        shutil.copytree(tmp_path / "old", out)
        died = killed(partial(write_new, out), len(seen))
        mend(out)  # as every reader does
        found = content(out)
        assert found in (old, new), f"step {len(seen)}"
        read(out)
        seen.append(found == new)
    assert seen == sorted(seen), "once the new one is there, it stays"
    assert set(seen) == {False, True}
    assert len(seen) > 5
    write_new(tmp_path / "0" / "place")  # and the next writer is not hindered
    assert content(tmp_path / "0" / "place") == new
    assert temporaries(tmp_path / "0") == []
