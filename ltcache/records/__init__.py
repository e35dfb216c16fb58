"""What is written and read back: identities as values, files and folders that are whole or not
there, what kind of thing lies in a place, and values that print on one line."""

from ltcache.records.files import (
    address_of,
    committed,
    create_whole,
    mend,
    mend_below,
    remove_leftovers,
    require_local,
    require_vacant,
    result_folder,
    temporary_path,
    whole_folder,
    write_json,
    write_whole,
)
from ltcache.records.identity import (
    bytes_digest,
    canonical_json,
    differences,
    digest,
    file_digest,
    require_equal,
    telling_classes,
)
from ltcache.records.json_value import JsonObject, JsonValue
from ltcache.records.object_store import ObjectStore
from ltcache.records.page_parts import json_element, source_hash
from ltcache.records.partial import PartialResult, parts_folder, read_parts
from ltcache.records.place_kind import (
    OF_RUNS,
    PlaceKind,
    kind_of,
    not_what_is_asked,
    places_in,
    record_there,
    seed_folders,
)
from ltcache.records.printing import counted, cut, html_table, one_line
from ltcache.records.ray_parts import parts_on_ray
from ltcache.records.replaceable import require_replaceable
from ltcache.records.sign_of_life import at_work, seen_at_work, wait_for_others
from ltcache.records.temporary_folder import private_folder
from ltcache.records.versioned import JsonRecord, plain_json, read_record

__all__ = [
    "OF_RUNS",
    "JsonObject",
    "JsonRecord",
    "JsonValue",
    "ObjectStore",
    "PartialResult",
    "PlaceKind",
    "address_of",
    "at_work",
    "bytes_digest",
    "canonical_json",
    "committed",
    "counted",
    "create_whole",
    "cut",
    "differences",
    "digest",
    "file_digest",
    "html_table",
    "json_element",
    "kind_of",
    "mend",
    "mend_below",
    "not_what_is_asked",
    "one_line",
    "parts_folder",
    "parts_on_ray",
    "places_in",
    "plain_json",
    "private_folder",
    "read_parts",
    "read_record",
    "record_there",
    "remove_leftovers",
    "require_equal",
    "require_local",
    "require_replaceable",
    "require_vacant",
    "result_folder",
    "seed_folders",
    "seen_at_work",
    "source_hash",
    "telling_classes",
    "temporary_path",
    "wait_for_others",
    "whole_folder",
    "write_json",
    "write_whole",
]
