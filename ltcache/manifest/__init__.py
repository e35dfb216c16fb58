"""Manifests: which images, which class, which split; every published form in one canonical one."""

from ltcache.manifest.classes import NAME_NORMALISER, ClassList, readable_name
from ltcache.manifest.columns import TableColumns, text_column
from ltcache.manifest.file_names import leaves_root, local_path, uri_of
from ltcache.manifest.image_files import (
    HEAD_BYTES,
    NO_IMAGES,
    LeftOut,
    begins_as_image,
    image_formats,
    images_among,
    is_image,
    is_visible,
    read_head,
    suffix_of,
)
from ltcache.manifest.labels import read_labels
from ltcache.manifest.manifest import COLUMNS, DEFAULT_TEMPLATES, Manifest
from ltcache.manifest.matching import ResolvedLabels, resolve_labels
from ltcache.manifest.missing import MissingFiles, missing_files
from ltcache.manifest.names import read_classes
from ltcache.manifest.packaged import packaged_manifests, packaged_names
from ltcache.manifest.parquet import image_column, open_parquet
from ltcache.manifest.ranges import read_range
from ltcache.manifest.roots import (
    Place,
    RemotePlace,
    Root,
    ShardedRoot,
    as_root,
    open_place,
    places_of,
    root_kind,
)
from ltcache.manifest.rows import Listing, checked_split
from ltcache.manifest.saved import saved_image_column, saved_splits
from ltcache.manifest.source import read_manifest, root_of
from ltcache.manifest.split_messages import HOW_TO_SPLIT, missing_split, unlabelled_split, unscored
from ltcache.manifest.splits import SPLIT_WORDS, SPLITS, canonical_split, known_split, split_in
from ltcache.manifest.tars import TarIndex, tar_index, tar_members
from ltcache.manifest.text import printable, read_json, read_lines, some
from ltcache.manifest.walk import walk_folder
from ltcache.manifest.zips import zip_heads, zip_index

__all__ = [
    "COLUMNS",
    "DEFAULT_TEMPLATES",
    "HEAD_BYTES",
    "HOW_TO_SPLIT",
    "NAME_NORMALISER",
    "NO_IMAGES",
    "SPLITS",
    "SPLIT_WORDS",
    "ClassList",
    "LeftOut",
    "Listing",
    "Manifest",
    "MissingFiles",
    "Place",
    "RemotePlace",
    "ResolvedLabels",
    "Root",
    "ShardedRoot",
    "TableColumns",
    "TarIndex",
    "as_root",
    "begins_as_image",
    "canonical_split",
    "checked_split",
    "image_column",
    "image_formats",
    "images_among",
    "is_image",
    "is_visible",
    "known_split",
    "leaves_root",
    "local_path",
    "missing_files",
    "missing_split",
    "open_parquet",
    "open_place",
    "packaged_manifests",
    "packaged_names",
    "places_of",
    "printable",
    "read_classes",
    "read_head",
    "read_json",
    "read_labels",
    "read_lines",
    "read_manifest",
    "read_range",
    "readable_name",
    "resolve_labels",
    "root_kind",
    "root_of",
    "saved_image_column",
    "saved_splits",
    "some",
    "split_in",
    "suffix_of",
    "tar_index",
    "tar_members",
    "text_column",
    "unlabelled_split",
    "unscored",
    "uri_of",
    "walk_folder",
    "zip_heads",
    "zip_index",
]
