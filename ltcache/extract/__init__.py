"""Extraction: one pass of an encoder over a manifest's images, into a cache that survives kills."""

from ltcache.extract.extraction import ExtractReport, Progress, extract

__all__ = ["ExtractReport", "Progress", "extract"]
