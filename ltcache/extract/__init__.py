"""Extraction: one pass of an encoder over a manifest's images, into a cache that survives kills."""

from ltcache.extract.extraction import extract
from ltcache.extract.report import ExtractionProgress, ExtractReport

__all__ = ["ExtractReport", "ExtractionProgress", "extract"]
