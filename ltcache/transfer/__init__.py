"""Features and heads across the border: import into a cache, export to plain files."""

from __future__ import annotations

from ltcache.transfer.bundle import export_bundle
from ltcache.transfer.dataset import export_dataset
from ltcache.transfer.exporting import ExportReport, export_cache
from ltcache.transfer.importing import ImportReport, import_features
from ltcache.transfer.layouts import guess_layout
from ltcache.transfer.onnx_file import export_onnx

__all__ = [
    "ExportReport",
    "ImportReport",
    "export_bundle",
    "export_cache",
    "export_dataset",
    "export_onnx",
    "guess_layout",
    "import_features",
]
