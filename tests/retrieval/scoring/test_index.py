"""An index says truly what it finds, belongs to one pool, and is refused where that is little."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltcache.errors import CacheError, IdentityError, UsageError
from ltcache.retrieval import RetrievalSettings, retrieve_tail
from ltcache.retrieval.scoring import index as module
from ltcache.retrieval.scoring.index import (
    PoolIndex,
    build_index,
    directions,
    exact_products,
    open_index,
    recall,
)
from ltcache.retrieval.scoring.pool import CachedPool
from ltcache.retrieval.scoring.pool_scores import score_pool
from ltcache.retrieval.scoring.queries import ClassQueries, class_queries, unit
from tests.retrieval.array_pool import ArrayPool
from tests.retrieval.conftest import CLASSES, World


def clustered(rows: int, dim: int, classes: int, seed: int) -> tuple[np.ndarray, ClassQueries]:
    """Return images around class directions that share a common part, as CLIP's do."""
    rng = np.random.default_rng(seed)
    text = unit(rng.normal(size=(classes, dim)) + 2 * rng.normal(size=dim))
    values = text[rng.integers(0, classes, rows)] + 0.2 * rng.normal(size=(rows, dim))
    return values.astype(np.float16), ClassQueries(text[None], 0.02)


def make_pool(world: World, rows: int = 1500) -> tuple[CachedPool, ClassQueries]:
    cache = world.labelled()
    labels = world.rng.integers(0, CLASSES, rows)
    return CachedPool(world.pool(cache, labels)), class_queries(cache.prompts(), 1 / 20)


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw", "ivfpq"])
def test_stated_recalls_are_true_on_a_fresh_sample(world: World, kind: str) -> None:
    pool, queries = make_pool(world)
    index = build_index(pool, queries, kind, top=20, seed=0)
    assert index is not None
    labels = np.arange(CLASSES)
    exact, found = (
        score_pool(pool, queries, labels, 20),
        index.candidates(pool, queries, labels, 20),
    )
    true = recall([found.of(k).rows for k in labels], [exact.of(k).rows for k in labels])
    assert index.record.recall_list == pytest.approx(true, abs=0.03)
    vectors = directions(pool, queries, labels, seed=5)[:, 0]
    true = recall(list(index.search(vectors, 20)[1]), list(exact_products(pool, vectors, 20)))
    assert index.record.recall_inner_product == pytest.approx(true, abs=0.05)
    for k in labels:  # whatever is found has its exact value and order
        own, all_ = found.of(k), exact.of(k)
        shared = np.isin(own.rows, all_.rows)
        assert own.log_odds[shared].tolist() == all_.log_odds[np.isin(all_.rows, own.rows)].tolist()


def test_directions_find_more_of_the_lists_than_prompts() -> None:
    values, queries = clustered(6000, 64, 40, seed=0)
    pool, labels = ArrayPool(values), np.arange(40)
    exact = score_pool(pool, queries, labels, 50)
    wanted = [exact.of(k).rows for k in labels]
    plain = recall(list(exact_products(pool, queries.rows[0], 50)), wanted)
    better = recall(list(exact_products(pool, directions(pool, queries, labels)[:, 0], 50)), wanted)
    assert better > plain + 0.1


def test_auto_explains_its_choice_and_refuses_a_low_recall(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, queries = make_pool(world)
    index = build_index(pool, queries, "auto", top=20)
    assert index is not None
    assert index.record.kind == "flat"
    assert "1500 rows" in index.record.why
    assert index.record.recall_list >= 0.95
    monkeypatch.setattr(module, "_SMALL", 100)
    lists = build_index(pool, queries, "auto", top=20)
    assert lists is not None
    assert lists.record.kind == "ivf"
    assert lists.record.recall_list >= 0.95
    monkeypatch.setattr(module, "LEAST_RECALL", 1.01)
    assert build_index(pool, queries, "auto", top=20) is None


def test_a_saved_index_serves_its_own_pool_alone(world: World, tmp_path: Path) -> None:
    pool, queries = make_pool(world, 400)
    index = build_index(pool, queries, "ivf", top=20)
    assert index is not None
    out = index.save(tmp_path / "index")
    again = open_index(out, pool)
    vectors = queries.rows[0]
    np.testing.assert_array_equal(again.search(vectors, 9)[1], index.search(vectors, 9)[1])
    record = json.loads((out / "index.json").read_text())
    assert record["settings"]["nlist"] == index.record.settings["nlist"]
    other = CachedPool(world.pool(world.labelled(name="c2"), np.zeros(400, np.int64), name="p2"))
    with pytest.raises(IdentityError) as caught:
        open_index(out, other)
    assert caught.value.exit_status == 4
    index.save(out)  # in place of itself
    (out / "index.faiss").write_bytes(b"x")
    with pytest.raises(CacheError, match="damaged"):
        open_index(out, pool)
    with pytest.raises(UsageError, match="no index"):
        open_index(tmp_path, pool)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="is no index"):
        index.save(tmp_path / "mine")
    with pytest.raises(UsageError, match="unknown"):
        build_index(pool, queries, "annoy")


def test_retrieval_with_an_index_names_it_and_takes_nearly_the_same(world: World) -> None:
    cache = world.labelled()
    pool = world.pool(cache, world.rng.integers(0, CLASSES, 600))
    queries = class_queries(cache.prompts(), 1 / 20)
    index = build_index(CachedPool(pool), queries, "flat", factor=8)
    assert isinstance(index, PoolIndex)
    settings = RetrievalSettings(per_class=10)
    exact = retrieve_tail(cache, pool, settings=settings)
    found = retrieve_tail(cache, pool, settings=settings, ranking=index)
    assert found.record.index is not None and found.record.index.kind == "flat"
    assert exact.record.index is None
    rows = [set(r.accepted["pool_row"].to_pylist()) for r in (exact, found)]
    assert len(rows[0] & rows[1]) >= 0.95 * len(rows[0])


class IndexOnGPU:
    """A flat index as FAISS has it on a GPU: lists of 2,048 entries at most."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def search(self, vectors: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        """Search, or refuse as FAISS does."""
        if top > 2048:
            raise RuntimeError("GPU index only supports min/max-K selection up to 2048")
        products, place = self.inner.search(vectors, top)
        return products, place


def test_lists_that_are_too_long_for_a_gpu_come_from_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faiss = module.load_faiss()
    rng = np.random.default_rng(0)
    flat = faiss.IndexFlatIP(4)
    flat.add(unit(rng.normal(size=(2100, 4)).astype(np.float32)))
    monkeypatch.setattr(module, "_is_on_gpu", lambda index: isinstance(index, IndexOnGPU))
    monkeypatch.setattr(faiss, "index_gpu_to_cpu", lambda index: index.inner, raising=False)
    index = PoolIndex(IndexOnGPU(flat), np.arange(2100), record=None)  # type: ignore[arg-type]
    vectors = rng.normal(size=(2, 4))
    assert index.search(vectors, 2048)[1].shape == (2, 2048)
    assert isinstance(index.index, IndexOnGPU)
    assert sorted(index.search(vectors, 5000)[1][0]) == list(range(2100))


def test_an_index_that_a_gpu_cannot_hold_stays_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses(*_: Any) -> Any:
        raise RuntimeError("Error: Device 0 has 49152 bytes of shared memory, while 65536 ...")

    faiss = module.load_faiss()
    monkeypatch.setattr(module, "gpus", lambda: 1)
    monkeypatch.setattr(module, "gpu_resources", lambda: None)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", refuses, raising=False)
    flat = faiss.IndexFlatIP(4)
    assert module._on_gpu(flat) is flat
    assert "stays on the CPU" in caplog.text and "49152" in caplog.text
