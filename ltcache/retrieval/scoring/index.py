"""FAISS indices over a pool, for repeated use: candidates from the index, exact p_k for them.

One retrieval never pays for an index; many do. What an index is good for is stated by two recalls:
that of its inner products, and that of the lists it leads to. The second is lower: the images that
are nearest to a prompt are not those that the softmax ranks first (with plain prompts a third of
them, measured on clustered features). So an index is asked for the direction in which the log-odds
grow, the prompt less the mean of its competitors weighted by their softmax on the best images of a
sample of the pool: the gradient of ``l_k - logsumexp_{j != k} l_j`` there.

    INDEX/{index.faiss, index.json}
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ltcache.errors import CacheError, UsageError, first_line
from ltcache.records import (
    JsonObject,
    JsonRecord,
    PlaceKind,
    file_digest,
    not_what_is_asked,
    one_line,
    read_record,
    require_equal,
    require_replaceable,
    result_folder,
    whole_folder,
    write_json,
)
from ltcache.retrieval.guards.neighbours import gpu_resources, gpus, load_faiss
from ltcache.retrieval.scoring.pool import Pool
from ltcache.retrieval.scoring.pool_scores import (
    RankedPairs,
    exact_scores,
    log_odds,
    ranked,
    score_pool,
)
from ltcache.retrieval.scoring.queries import ClassQueries, unit

log = logging.getLogger(__name__)

KINDS = ("flat", "ivf", "hnsw", "ivfpq", "auto")
LEAST_RECALL = 0.95
"""Of the final lists; ``auto`` refuses an index below it."""

FACTOR = 4
"""Candidates from the index for each image of a final list."""

_FACTORS = (2, 4, 8, 16, 32)
_EFFORTS = (8, 32, 128)  # cells visited, or an eighth of HNSW's queue
_SAMPLE = 8192  # rows that directions are estimated on
_BEST = 32  # of them, per class
_MEASURED = 32  # classes that recalls are measured on, at most
_SMALL, _LARGE = 20_000, 5_000_000  # rows: below, an index is flat; above, it is compressed
_BLOCK = 16_384
_GPU_MOST = 2048  # entries of a list that FAISS finds on a GPU


@dataclass(frozen=True)
class IndexRecord(JsonRecord):
    """What stands in index.json.

    Attributes:
        kind, why: which kind of index, and why that one. settings: of FAISS.
        factor: candidates for each image of a final list.
        pool: identity. build_seconds, search_seconds: of building and of being measured.
        recall_inner_product, recall_list: on what ``measured_on`` says.
        sha256: of index.faiss, once that is written.
    """

    kind: str
    why: str
    settings: Mapping[str, Any]
    factor: int
    pool: Mapping[str, Any]
    build_seconds: float
    recall_inner_product: float = 0.0
    recall_list: float = 0.0
    measured_on: Mapping[str, Any] = field(default_factory=dict)
    search_seconds: float = 0.0
    sha256: str | None = None

    def to_dict(self) -> JsonObject:
        """Return plain JSON, without a digest of what is not written."""
        return {name: value for name, value in super().to_dict().items() if value is not None}


@one_line
@dataclass(eq=False)
class PoolIndex:
    """An index over the rows of a pool.

    Attributes:
        index: of FAISS, inner product over unit rows, in the order of ``rows``.
        rows: int64 (N,), pool row numbers.
        record: what stands in index.json.
    """

    index: Any
    rows: np.ndarray
    record: IndexRecord

    def search(self, vectors: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        """Return float32 products and int64 pool rows, (n, top); -1 where fewer were found."""
        vectors, top = np.ascontiguousarray(vectors, np.float32), min(top, len(self.rows))
        if top > _GPU_MOST:
            self.index = _on_cpu(self.index)
        products, place = self.index.search(vectors, top)
        return products, np.where(place < 0, -1, self.rows[place])

    def candidates(
        self, pool: Pool, queries: ClassQueries, labels: np.ndarray, top: int
    ) -> RankedPairs:
        """Return lists as :func:`score_pool` does, but for recall."""
        if not len(labels):
            return score_pool(pool, queries, labels, top)
        vectors = directions(pool, queries, labels)  # (T, M, D)
        _, found = self.search(vectors.reshape(-1, queries.dim), self.record.factor * top)
        found = found.reshape(len(labels), -1)
        pairs = [np.unique(own[own >= 0]) for own in found]
        where = np.repeat(np.arange(len(labels)), [len(own) for own in pairs])
        rows = np.concatenate(pairs)
        return ranked(rows, where, *exact_scores(pool, queries, rows, labels[where]), labels, top)

    def save(self, out: str | Path) -> Path:
        """Write the index as a directory, in place of an index that is there.

        Raises:
            UsageError: something else is there.
        """
        out = require_replaceable(out, PlaceKind.INDEX)
        with whole_folder(out) as partial:
            load_faiss().write_index(_on_cpu(self.index), str(partial / "index.faiss"))
            sha256 = file_digest(partial / "index.faiss")
            write_json(partial / "index.json", replace(self.record, sha256=sha256).to_dict())
        return out


def open_index(path: str | Path, pool: Pool) -> PoolIndex:
    """Read an index of this pool.

    Raises:
        UsageError: there is none. CacheError: it is damaged.
        IdentityError: it was built over another pool, view or encoder (status 4).
    """
    path = result_folder(path)
    if not (path / "index.json").is_file():
        raise UsageError(f"no index here: {not_what_is_asked(path, PlaceKind.INDEX)}")
    try:
        stored = json.loads((path / "index.json").read_text(encoding="utf-8"))
        record = read_record(IndexRecord, stored, name="index.json")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CacheError(f"{path / 'index.json'}: cannot be read ({error})") from None
    require_equal("pool", record.pool, pool.identity(), remedy=f"build {path} again for this pool")
    if not (path / "index.faiss").is_file() or file_digest(path / "index.faiss") != record.sha256:
        raise CacheError(f"{path / 'index.faiss'}: damaged or missing: build the index again")
    index = load_faiss().read_index(str(path / "index.faiss"))
    return PoolIndex(_on_gpu(index), pool.rows, record)


def build_index(
    pool: Pool,
    queries: ClassQueries,
    kind: str = "auto",
    *,
    top: int = 100,
    factor: int | None = None,
    seed: int = 0,
) -> PoolIndex | None:
    """Build an index, and measure what it finds.

    Args:
        queries: of all classes; recalls are measured on a sample of at most 32 of them.
        kind: of :data:`KINDS`. ``auto`` takes flat up to 20,000 rows, inverted lists up to five
            million and compressed ones beyond, and the least effort and factor that reach a list
            recall of 0.95.
        top: length of the lists that the recall is measured on.
        factor: candidates for each image of a list; 4, or what ``auto`` finds.

    Returns:
        The index, or None where ``auto`` found none that reaches the recall; an exact pass is then
        the better choice.
    """
    if kind not in KINDS:
        raise UsageError(f"index {kind!r} is unknown; known: {', '.join(KINDS)}")
    chosen, why = (kind, "as asked for") if kind != "auto" else _choice(len(pool.rows))
    started = time.perf_counter()
    index, made = _built(pool, chosen, seed)
    seconds = round(time.perf_counter() - started, 3)
    record = IndexRecord(chosen, why, made, factor or FACTOR, pool.identity(), seconds)
    found = PoolIndex(_on_gpu(index), pool.rows, record)
    truth = _ExactSample(pool, queries, min(top, len(pool.rows)), seed)
    if kind != "auto":
        truth.measure(found)
        return found
    for tried in [factor] if factor else _FACTORS:
        for effort in _efforts(chosen):
            found.record = replace(found.record, factor=tried)
            set_effort(found, effort)
            truth.measure(found)
            if found.record.recall_list >= LEAST_RECALL:
                return found
    return None


def set_effort(index: PoolIndex, effort: int | None) -> None:
    """Set how many cells are visited (inverted lists), or an eighth of the queue (HNSW)."""
    if effort is None:
        return
    faiss = load_faiss()
    settings = index.record.settings
    name = "efSearch" if index.record.kind == "hnsw" else "nprobe"
    value = 8 * effort if name == "efSearch" else min(effort, settings["nlist"])
    space = faiss.GpuParameterSpace() if _is_on_gpu(index.index) else faiss.ParameterSpace()
    space.set_index_parameter(index.index, name, value)
    index.record = replace(index.record, settings={**settings, name: value})


def directions(
    pool: Pool, queries: ClassQueries, labels: np.ndarray, *, seed: int = 0
) -> np.ndarray:
    """Return float64 (T, M, D): for each sentence of each class, where its log-odds grow.

    Args:
        seed: of the rows of the pool that the competitors are weighed on.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(pool.rows, min(_SAMPLE, len(pool.rows)), replace=False))
    images = pool.unit(rows)
    logits = np.stack([images @ own.T for own in queries.scaled]).max(axis=0)
    odds = log_odds(torch.from_numpy(logits)).numpy()[:, labels]
    best = np.argsort(-odds, axis=0)[: min(_BEST, len(rows))]  # (n, T)
    prompts = unit(queries.rows.mean(axis=0))
    result = np.empty((len(labels), len(queries.rows), queries.dim))
    for place, label in enumerate(labels):
        others = logits[best[:, place]].copy()
        others[:, label] = -np.inf
        shares = torch.from_numpy(others).softmax(dim=1).mean(dim=0).numpy()
        result[place] = queries.rows[:, label] - shares @ prompts
    return result


class _ExactSample:
    """Exact lists and products of a sample of classes, to measure indices against."""

    def __init__(self, pool: Pool, queries: ClassQueries, top: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        number = min(_MEASURED, queries.num_classes)
        self.labels = np.sort(rng.choice(queries.num_classes, number, replace=False))
        self.pool, self.queries, self.top, self.seed = pool, queries, top, seed
        self.lists = score_pool(pool, queries, self.labels, top)
        self.vectors = directions(pool, queries, self.labels)[:, 0]
        self.products = exact_products(pool, self.vectors, top)

    def measure(self, index: PoolIndex) -> None:
        """Write both recalls into an index's record, and how long its search took."""
        started = time.perf_counter()
        found = index.candidates(self.pool, self.queries, self.labels, self.top)
        seconds = time.perf_counter() - started
        _, near = index.search(self.vectors, self.top)
        index.record = replace(
            index.record,
            recall_inner_product=recall(list(near), list(self.products)),
            recall_list=recall(
                [found.of(label).rows for label in self.labels],
                [self.lists.of(label).rows for label in self.labels],
            ),
            measured_on={
                "classes": self.labels.tolist(),
                "top": self.top,
                "rows": len(self.pool.rows),
                "seed": self.seed,
            },
            search_seconds=round(seconds, 3),
        )


def recall(found: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """Return the share of wanted rows that were found, over all lists."""
    hits = sum(np.isin(w, f).sum() for f, w in zip(found, wanted, strict=True))
    return float(hits / max(1, sum(len(w) for w in wanted)))


def exact_products(pool: Pool, vectors: np.ndarray, top: int) -> np.ndarray:
    """Return int64 (n, top): pool rows by inner product with unit rows, in one streamed pass."""
    vectors = np.ascontiguousarray(vectors, np.float32)
    best: np.ndarray = np.zeros((len(vectors), 0), np.float32)
    rows: np.ndarray = np.zeros((len(vectors), 0), np.int64)
    faiss = load_faiss()
    for numbers, values in pool.blocks(_BLOCK):
        block = unit(np.asarray(values, np.float32))
        metric = faiss.METRIC_INNER_PRODUCT
        products, place = faiss.knn(vectors, block, min(top, len(block)), metric=metric)
        best = np.concatenate([best, products], axis=1)
        rows = np.concatenate([rows, numbers[place]], axis=1)
        order = np.argsort(-best, axis=1, kind="stable")[:, :top]
        best = np.asarray(np.take_along_axis(best, order, axis=1))
        rows = np.asarray(np.take_along_axis(rows, order, axis=1))
    return rows


def _choice(rows: int) -> tuple[str, str]:
    if rows < _SMALL:
        return "flat", f"{rows} rows: products with all of them cost less than any index"
    if rows < _LARGE:
        return "ivf", f"{rows} rows: inverted lists hold them whole and visit few"
    return "ivfpq", f"{rows} rows: compressed, whole rows would need {rows >> 9} MB at 512 numbers"


def _built(pool: Pool, kind: str, seed: int) -> tuple[Any, dict[str, Any]]:
    """Return a filled index, trained on a sample and filled block by block, and its settings."""
    faiss, rows, dim = load_faiss(), len(pool.rows), pool.dim
    made: dict[str, Any] = {"dim": dim}
    if kind == "hnsw":
        made |= {"links": 32, "efConstruction": 80, "efSearch": 128}
        index = faiss.IndexHNSWFlat(dim, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = 80, 128
    elif kind == "flat":
        index = faiss.IndexFlatIP(dim)
    else:
        cells = int(max(1, min(4 * np.sqrt(rows), rows // 39)))
        made |= {"nlist": cells, "nprobe": min(32, cells), "seed": seed}
        code = f"PQ{_codes(dim)}" if kind == "ivfpq" and rows >= 9984 else "Flat"
        made["code"] = code
        index = faiss.index_factory(dim, f"IVF{cells},{code}", faiss.METRIC_INNER_PRODUCT)
        index.nprobe = made["nprobe"]
        index.cp.seed = seed + 1
        index.train(_sample(pool, max(64 * cells, 10_000), seed))
    for _, values in pool.blocks(_BLOCK):
        index.add(unit(np.asarray(values, np.float32)))
    return index, made


def _codes(dim: int) -> int:
    """Return the largest number of bytes up to 64 that divides D."""
    return next(codes for codes in range(min(64, dim), 0, -1) if dim % codes == 0)


def _sample(pool: Pool, most: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    chosen = rng.choice(pool.rows, min(most, len(pool.rows)), replace=False)
    return pool.unit(np.sort(chosen)).astype(np.float32)


def _efforts(kind: str) -> tuple[int | None, ...]:
    return (None,) if kind == "flat" else _EFFORTS


def _on_gpu(index: Any) -> Any:
    """Return the index on a GPU where FAISS finds one and has such an index there: codes of 64
    bytes, for one, are too many for the tables of its kernels."""
    faiss = load_faiss()
    if not gpus() or isinstance(index, faiss.IndexHNSW):
        return index
    try:
        return faiss.index_cpu_to_gpu(gpu_resources(), 0, index)
    except RuntimeError as error:
        log.warning("the index stays on the CPU: FAISS says %s", first_line(error))
        return index


def _on_cpu(index: Any) -> Any:
    return load_faiss().index_gpu_to_cpu(index) if _is_on_gpu(index) else index


def _is_on_gpu(index: Any) -> bool:
    return bool(gpus()) and isinstance(index, load_faiss().GpuIndex)
