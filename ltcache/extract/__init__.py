"""Extraction: one pass of an encoder over a manifest's images, into a cache that survives kills."""

from ltcache.extract.extraction import extract
from ltcache.extract.growth import hash_images
from ltcache.extract.kept_splits import keep_splits
from ltcache.extract.list_reading import ListReading, read_once
from ltcache.extract.on_ray import extract_on_ray
from ltcache.extract.report import ExtractionProgress, ExtractReport, joined_report
from ltcache.extract.splitting import SplitReport, image_blocks, split_cache
from ltcache.extract.trial import LoopSpeed, trial_loop

__all__ = [
    "ExtractReport",
    "ExtractionProgress",
    "ListReading",
    "LoopSpeed",
    "SplitReport",
    "extract",
    "extract_on_ray",
    "hash_images",
    "image_blocks",
    "joined_report",
    "keep_splits",
    "read_once",
    "split_cache",
    "trial_loop",
]
