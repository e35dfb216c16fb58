"""Tar shards: images in the archives' order, labels from the files beside them.

In the naming of webdataset the files of a sample share all up to the first dot of their name:
``000.jpg`` with ``000.cls`` (a whole number or a class name), or ``000.json`` (an object with
``label``, ``class`` or ``target``; its other fields are carried along), or ``000.txt`` (a label if
it is a whole number in every sample, else carried along as ``caption``). A tar file without such
files is read like a folder: class folders, or unlabelled images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ltcache.errors import ImageError, ManifestError
from ltcache.manifest.classes import ClassList
from ltcache.manifest.draft import Draft, Request
from ltcache.manifest.folder import read_folder
from ltcache.manifest.labels import Labels, read_labels
from ltcache.manifest.lists import names_beside
from ltcache.manifest.names import read_classes
from ltcache.manifest.ranges import read_range
from ltcache.manifest.roots import Place, Remote, one_root
from ltcache.manifest.rows import Listing
from ltcache.manifest.splits import split_in
from ltcache.manifest.table_forms import json_array
from ltcache.manifest.tables import LABEL_COLUMNS, renamed
from ltcache.manifest.tars import TarIndex, tar_index
from ltcache.manifest.text import parse_json
from ltcache.manifest.tree import is_image

_SIDECARS = ("cls", "json", "txt")
_MOST_BYTES = 1 << 20  # of a label


def read_tars(places: Sequence[Place], request: Request) -> Draft:
    """Return the images of one or several tar shards as a draft; uris are ``SHARD/MEMBER``.

    Raises:
        ManifestError: a damaged or hostile archive, or a label that is none; names file and member.
    """
    shards = [tar_index(place) for place in places]
    root = one_root(places)
    names = [name for shard in shards for name in shard.members]
    if not any(_sidecar(name) for name in names):
        in_folders = any("/" in name for name in names if is_image(name))
        if in_folders and request.labelled is not False and len(set(names)) == len(names):
            return read_folder(root, request)
    listings: list[Listing] = []
    warnings: list[str] = []
    for shard in shards:
        listing = _listing(shard, request)
        listings.append(listing)
        if split_in(shard.place.stem)[0] is None and listing.split == "train" and not warnings:
            warnings.append(
                f"{shard.place.name}: its name tells no split; its rows are taken as 'train'"
            )
    dataset = split_in(places[0].stem)[1] or places[0].parent.name
    classes = _classes(places[0], dataset, request)
    return Draft(dataset, listings, root, classes, warnings=tuple(warnings))


def _sidecar(name: str) -> bool:
    return _split_name(name)[1] in _SIDECARS


def _split_name(name: str) -> tuple[str, str]:
    """Return (all up to the first dot of the file name, the rest in lower case)."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()


def _listing(shard: TarIndex, request: Request) -> Listing:
    """Return the rows of one shard in its order."""
    images = [name for name in shard.members if is_image(name)]
    uris = [f"{shard.place.name}/{name}" for name in images]
    told = split_in(shard.place.stem)[0]
    samples: dict[str, dict[str, str]] = {}
    for name in shard.members:
        sample, suffix = _split_name(name)
        if suffix in _SIDECARS:
            samples.setdefault(sample, {})[suffix] = name
    found = [samples.get(_split_name(name)[0], {}) for name in images]
    columns = _columns(shard, found, request.label_column) if any(found) else {}
    if request.label_column is not None and "label" not in columns:
        raise ManifestError(
            f"{shard.place}: no .json beside its images has a field {request.label_column!r} to "
            "take labels from; correct --label-column"
        )
    labels = Labels(np.full(len(images), -1, dtype=np.int64))
    label = columns.pop("label", None)
    where = str(shard.place)
    if label is not None and request.labelled is not False:
        labels = read_labels(where, "label", label)
    split = told or ("pool" if label is None else "train")
    return Listing(where, uris, labels.values, split, extra=renamed(columns), notes=labels.notes)


def _columns(
    shard: TarIndex, found: Sequence[Mapping[str, str]], wanted: str | None
) -> dict[str, pa.Array]:
    """Return the label (if there is any) and what is carried along, one value per image."""
    records: list[dict[str, Any]] = [_fields(shard, files, wanted) for files in found]
    texts = [str(record["caption"]) for record in records if "caption" in record]
    labelled = any("label" in record for record in records)
    if texts and not labelled and all(text.strip().isdecimal() for text in texts):
        records = [{"label": r["caption"].strip()} if "caption" in r else r for r in records]
    names = list(dict.fromkeys(name for record in records for name in record))
    return {
        name: json_array(str(shard.place), [record.get(name) for record in records])
        for name in names
    }


def _fields(shard: TarIndex, files: Mapping[str, str], wanted: str | None) -> dict[str, Any]:
    """Return what the files beside one image say: ``label``, ``caption`` and fields of its JSON.

    Args:
        wanted: the field of the JSON that is the label, in place of the usual names and of .cls.
    """
    fields: dict[str, Any] = {}
    if "txt" in files:
        fields["caption"] = _text(shard, files["txt"])
    if "json" in files:
        where = f"{shard.place}: the member {files['json']!r}"
        value = parse_json(_text(shard, files["json"]), where)
        if not isinstance(value, dict):
            value = {"label": value}
        usual = LABEL_COLUMNS if wanted is None else (wanted,)
        label = next((name for name in usual if name in value), None)
        labelled = {} if label is None else {"label": value[label]}
        value = {k: v for k, v in value.items() if k not in (label, "label")} | labelled
        kept = {k: v for k, v in value.items() if not isinstance(v, (dict, list))}
        fields |= {k.lower(): v for k, v in kept.items() if k not in ("key", "split")}
    if "cls" in files and wanted is None:
        fields["label"] = _text(shard, files["cls"]).strip()
    if isinstance(fields.get("label"), int):
        fields["label"] = str(fields["label"])
    return fields


def _text(shard: TarIndex, name: str) -> str:
    start, size = shard.members[name]
    try:
        if size > _MOST_BYTES:
            raise ImageError(f"{size} bytes are too many for a label")
        return read_range(shard.place, shard.stamp, start, size).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ManifestError(f"{shard.place}: the member {name!r} is not UTF-8") from None
    except ImageError as error:
        raise ManifestError(f"{shard.place}: the member {name!r}: {error}") from None


def _classes(place: Place, dataset: str, request: Request) -> ClassList | None:
    if isinstance(request.classes, ClassList):
        return request.classes
    path = request.classes
    if path is None and request.labelled is not False and not isinstance(place, Remote):
        path = names_beside(place)
    return None if path is None else read_classes(path, dataset=dataset)
