"""A list as one Arrow file that processes map: they share its pages, and none of them holds it.

It is written once, by a process that has read the source and found its rows to keep the rules.
Whoever maps it compares its rows with the digest in it, so that it is what was written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ltcache.errors import ManifestError
from ltcache.manifest.distinct import is_distinct, know_distinct
from ltcache.manifest.draft import ManifestRequest, choose_splits
from ltcache.manifest.long_texts import whole_table
from ltcache.manifest.manifest import COLUMNS, Manifest
from ltcache.manifest.roots.places import Place, RemotePlace, Root, one_root, places_of
from ltcache.records import canonical_json, committed

FORMAT = 1
SUFFIX = ".arrow"
_ABOUT = b"ltcache"


def write_list(manifest: Manifest, path: str | Path) -> None:
    """Write a manifest as a list file, which :func:`ltcache.manifest.read_manifest` maps.

    Args:
        path: ends in ``.arrow``.

    Raises:
        ManifestError: the path does not.
    """
    if Path(path).suffix != SUFFIX:
        raise ManifestError(f"{path}: name the list file so that it ends in {SUFFIX}")
    about = {
        "format": FORMAT,
        "header": manifest.header(),
        "identity": manifest.identity(),
        "root": [_written(place) for place in places_of(manifest.root)] if manifest.root else [],
        "distinct": ["key", *(["uri"] if is_distinct(manifest.rows["uri"]) else [])],
    }
    rows = whole_table(manifest.rows)  # in one batch, so that each column lies in one piece
    if rows["key"].equals(rows["uri"]):
        rows = rows.drop_columns(["key"])
    rows = rows.replace_schema_metadata({_ABOUT: canonical_json(about).encode()})
    with committed(Path(path)) as temporary, pa.ipc.new_file(temporary, rows.schema) as writer:
        writer.write_table(rows)


def is_list_file(source: object) -> bool:
    """Whether a source is named as a list file."""
    return isinstance(source, (str, Path)) and Path(source).suffix == SUFFIX


def map_list(path: Path, request: ManifestRequest, splits: Sequence[str] | None) -> Manifest:
    """Return the manifest of a list file; its rows are mapped, and stay where they are.

    Raises:
        ManifestError: not such a file, or damaged; or labels are to be read anew, which were read
            when it was written.
    """
    if request.classes is not None or request.labelled is not None or request.label_column:
        raise ManifestError(
            f"{path}: its labels were read when it was written; say there which are its classes "
            "and its labels, and leave it out here"
        )
    try:
        rows = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        rows.validate(full=True)
        about = json.loads(rows.schema.metadata[_ABOUT])
        if about["format"] != FORMAT:
            raise ManifestError(f"{path}: format {about['format']}, this ltcache reads {FORMAT}")
        manifest = _with_rows(rows, about, request.root)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ManifestError):
            raise
        raise ManifestError(f"{path}: no list that ltcache has written ({error})") from None
    if manifest.identity() != about["identity"]:
        raise ManifestError(f"{path}: its rows do not have the digest in it: write it again")
    return manifest if splits is None else choose_splits(manifest, splits)


def _with_rows(rows: pa.Table, about: Mapping[str, Any], root: Root | None) -> Manifest:
    if "key" not in rows.column_names:  # the keys are the uris
        rows = rows.add_column(1, COLUMNS.field("key").with_type(rows["uri"].type), rows["uri"])
    for name in about["distinct"] if rows.num_rows else ():
        know_distinct(rows[name].chunk(0))
    if root is None and about["root"]:
        root = one_root([_read(text) for text in about["root"]])
    return Manifest.from_header(about["header"], rows.replace_schema_metadata(None), root)


def _written(place: Place) -> str:
    return str(place) if isinstance(place, RemotePlace) else os.path.abspath(place)


def _read(text: str) -> Place:
    return RemotePlace(text) if "://" in text else Path(text)
