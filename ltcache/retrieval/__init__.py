"""Choosing images for rare classes from an unlabelled pool; the only importer of FAISS."""

from ltcache.retrieval.merge import extra_rows
from ltcache.retrieval.result import RetrievalResult, open_retrieved
from ltcache.retrieval.settings import RetrievalSettings
from ltcache.retrieval.tail import retrieve_tail

__all__ = ["RetrievalResult", "RetrievalSettings", "extra_rows", "open_retrieved", "retrieve_tail"]
