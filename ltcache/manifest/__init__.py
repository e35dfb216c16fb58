"""Manifests: which images, which class, which split; every published form in one canonical one."""

from ltcache.manifest.classes import NAME_NORMALISER, ClassList, readable_name
from ltcache.manifest.manifest import COLUMNS, DEFAULT_TEMPLATES, Manifest
from ltcache.manifest.missing import MissingFiles, missing_files
from ltcache.manifest.names import read_classes
from ltcache.manifest.packaged import packaged_manifests, packaged_names
from ltcache.manifest.roots import Root
from ltcache.manifest.source import read_manifest, root_of

__all__ = [
    "COLUMNS",
    "DEFAULT_TEMPLATES",
    "NAME_NORMALISER",
    "ClassList",
    "Manifest",
    "MissingFiles",
    "Root",
    "missing_files",
    "packaged_manifests",
    "packaged_names",
    "read_classes",
    "read_manifest",
    "readable_name",
    "root_of",
]
