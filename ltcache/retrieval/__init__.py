"""Choosing images for rare classes from an unlabelled pool; the only importer of FAISS."""

from ltcache.retrieval.cached_queries import make_queries
from ltcache.retrieval.decisions import apply_decisions, read_decisions
from ltcache.retrieval.gallery import GALLERY, find_store, write_gallery
from ltcache.retrieval.index import KINDS, PoolIndex, build_index, open_index
from ltcache.retrieval.merge import extra_rows
from ltcache.retrieval.pool import CachedPool
from ltcache.retrieval.ranking import ExactPass, IndexRequest
from ltcache.retrieval.result import RetrievalResult, open_retrieved
from ltcache.retrieval.search import search_pool
from ltcache.retrieval.settings import RetrievalSettings
from ltcache.retrieval.tail import retrieve_tail
from ltcache.retrieval.tsne import write_tsne

__all__ = [
    "GALLERY",
    "KINDS",
    "CachedPool",
    "ExactPass",
    "IndexRequest",
    "PoolIndex",
    "RetrievalResult",
    "RetrievalSettings",
    "apply_decisions",
    "build_index",
    "extra_rows",
    "find_store",
    "make_queries",
    "open_index",
    "open_retrieved",
    "read_decisions",
    "retrieve_tail",
    "search_pool",
    "write_gallery",
    "write_tsne",
]
