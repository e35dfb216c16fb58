"""Manifests: which images, which class, which split; every published form in one canonical one."""

from ltcache.manifest.classes import NAME_NORMALISER, ClassList, readable_name
from ltcache.manifest.columns import TableColumns, text_column
from ltcache.manifest.directory import CARD
from ltcache.manifest.distinct import is_distinct
from ltcache.manifest.file_names import uri_of
from ltcache.manifest.image_files import NO_IMAGES, LeftOut, image_formats
from ltcache.manifest.labels import read_labels
from ltcache.manifest.lists import is_names_file
from ltcache.manifest.long_texts import place_among, text_array, whole_table, whole_texts, with_room
from ltcache.manifest.manifest import COLUMNS, DEFAULT_TEMPLATES, IDENTIFYING, Manifest
from ltcache.manifest.mapped_list import write_list
from ltcache.manifest.matching import ResolvedLabels, resolve_labels
from ltcache.manifest.missing import MissingFiles, missing_files
from ltcache.manifest.names import read_classes
from ltcache.manifest.packaged import packaged_manifests, packaged_names
from ltcache.manifest.root_file import ROOT_FILE, image_root, keep_root, kept_root
from ltcache.manifest.roots.catalogue import (
    ROOT_FORMATS,
    named_among_images,
    open_store,
    root_format,
)
from ltcache.manifest.roots.folders import file_input, read_file
from ltcache.manifest.roots.limits import stable_text
from ltcache.manifest.roots.places import Place, RemotePlace, Root, ShardedRoot, as_root
from ltcache.manifest.roots.root_format import ImageInput, ImageStore, NamedFiles, RootFormat
from ltcache.manifest.row_json import rows_digest
from ltcache.manifest.rows import Listing, checked_split
from ltcache.manifest.source import read_manifest, root_of
from ltcache.manifest.split_fill import FREE, TRAIN, ImageBlocks, SplitFill
from ltcache.manifest.split_messages import how_to_split, missing_split, unlabelled_split, unscored
from ltcache.manifest.split_recipe import (
    SPLITTING,
    WAITING,
    SplitRecipe,
    parse_shares,
    recipe_of,
)
from ltcache.manifest.splits import (
    SPLIT_WORDS,
    SPLITS,
    canonical_split,
    in_order,
    known_split,
    split_in,
)
from ltcache.manifest.text import printable, read_json, read_lines, some

__all__ = [
    "CARD",
    "COLUMNS",
    "DEFAULT_TEMPLATES",
    "FREE",
    "IDENTIFYING",
    "NAME_NORMALISER",
    "NO_IMAGES",
    "ROOT_FILE",
    "ROOT_FORMATS",
    "SPLITS",
    "SPLITTING",
    "SPLIT_WORDS",
    "TRAIN",
    "WAITING",
    "ClassList",
    "ImageBlocks",
    "ImageInput",
    "ImageStore",
    "LeftOut",
    "Listing",
    "Manifest",
    "MissingFiles",
    "NamedFiles",
    "Place",
    "RemotePlace",
    "ResolvedLabels",
    "Root",
    "RootFormat",
    "ShardedRoot",
    "SplitFill",
    "SplitRecipe",
    "TableColumns",
    "as_root",
    "canonical_split",
    "checked_split",
    "file_input",
    "how_to_split",
    "image_formats",
    "image_root",
    "in_order",
    "is_distinct",
    "is_names_file",
    "keep_root",
    "kept_root",
    "known_split",
    "missing_files",
    "missing_split",
    "named_among_images",
    "open_store",
    "packaged_manifests",
    "packaged_names",
    "parse_shares",
    "place_among",
    "printable",
    "read_classes",
    "read_file",
    "read_json",
    "read_labels",
    "read_lines",
    "read_manifest",
    "readable_name",
    "recipe_of",
    "resolve_labels",
    "root_format",
    "root_of",
    "rows_digest",
    "some",
    "split_in",
    "stable_text",
    "text_array",
    "text_column",
    "unlabelled_split",
    "unscored",
    "uri_of",
    "whole_table",
    "whole_texts",
    "with_room",
    "write_list",
]
