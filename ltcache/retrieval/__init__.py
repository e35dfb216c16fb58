"""Choosing images for rare classes from an unlabelled pool; the only importer of FAISS."""

from ltcache.retrieval.merge import extra_rows
from ltcache.retrieval.on_ray import retrieve_on_ray
from ltcache.retrieval.parts import merge_retrieval, retrieve_part
from ltcache.retrieval.result import RetrievalResult, open_retrieved, pool_folders
from ltcache.retrieval.review.decisions import apply_decisions, read_decisions
from ltcache.retrieval.review.gallery import GALLERY, write_gallery
from ltcache.retrieval.review.tsne import tsne_coordinates, write_tsne
from ltcache.retrieval.scoring.cached_queries import make_queries
from ltcache.retrieval.scoring.index import KINDS, PoolIndex, build_index, open_index
from ltcache.retrieval.scoring.pool import CachedPool, JoinedPool
from ltcache.retrieval.scoring.ranking import ExactPass, IndexRequest
from ltcache.retrieval.search import search_pool
from ltcache.retrieval.search_page import write_search_page
from ltcache.retrieval.settings import RetrievalSettings
from ltcache.retrieval.tail import retrieve_tail

__all__ = [
    "GALLERY",
    "KINDS",
    "CachedPool",
    "ExactPass",
    "IndexRequest",
    "JoinedPool",
    "PoolIndex",
    "RetrievalResult",
    "RetrievalSettings",
    "apply_decisions",
    "build_index",
    "extra_rows",
    "make_queries",
    "merge_retrieval",
    "open_index",
    "open_retrieved",
    "pool_folders",
    "read_decisions",
    "retrieve_on_ray",
    "retrieve_part",
    "retrieve_tail",
    "search_pool",
    "tsne_coordinates",
    "write_gallery",
    "write_search_page",
    "write_tsne",
]
