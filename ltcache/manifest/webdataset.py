"""Tar shards: images in the archives' order, labels from the files beside them.

In the naming of webdataset the files of a sample share the name up to a dot (which one:
:mod:`ltcache.manifest.samples`): ``000.jpg`` with ``000.cls`` (a whole number or a class name), or
``000.json`` (an object with ``label``, ``class`` or ``target``; its other fields are carried
along), or ``000.txt`` (a label if it is a whole number in every sample, else carried along as
``caption``).
Tar files in which no such file belongs to an image are read like a folder: class folders, or
unlabelled images.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from ltcache.errors import ImageError, ManifestError
from ltcache.manifest.classes import ClassList
from ltcache.manifest.draft import ManifestRequest, SourceDraft
from ltcache.manifest.folder import read_folder
from ltcache.manifest.image_files import NO_IMAGES, LeftOut
from ltcache.manifest.labels import RowLabels, read_labels
from ltcache.manifest.lists import names_beside
from ltcache.manifest.long_texts import text_array
from ltcache.manifest.names import read_classes
from ltcache.manifest.roots.places import Place, RemotePlace, one_root
from ltcache.manifest.roots.ranges import read_range
from ltcache.manifest.roots.tars import TarIndex, tar_indices
from ltcache.manifest.rows import Listing
from ltcache.manifest.samples import SampleList, ShardFiles, files_of, last_dot, samples_of
from ltcache.manifest.splits import split_in
from ltcache.manifest.table_forms import json_array
from ltcache.manifest.tables import LABEL_COLUMNS, renamed
from ltcache.manifest.text import parse_json
from ltcache.records import JsonObject

_MOST_BYTES = 1 << 20  # of a label


def read_tars(places: Sequence[Place], request: ManifestRequest) -> SourceDraft:
    """Return the images of one or several tar shards as a draft; uris are ``SHARD/MEMBER``.

    Raises:
        ManifestError: a damaged or hostile archive, or a label that is none; names file and member.
            No images: says what else there is.
    """
    files = [files_of(shard) for shard in tar_indices(places)]
    samples, cut = samples_of(files)
    in_folders = any("/" in name for item in files for name in item.images)
    used = any(item.used for item in samples)
    if in_folders and not used and request.labelled is not False:
        return _class_folders(files, request)
    noticed = [*_noticed(files, samples)]
    if not any(item.images for item in files):
        raise ManifestError(": ".join([f"{one_root(places)}", "no images below it", *noticed]))
    listings = [_listing(item, request) for item in samples]
    warnings = [*_untold(listings, places), *noticed]
    if cut is last_dot:
        warnings.append(
            "names of samples hold dots: they are cut at the last one, which puts more of the "
            "files beside the images to use than the first one, where webdataset cuts"
        )
    if request.labelled is not False:
        warnings += _without_label(listings, in_folders)
    dataset = split_in(places[0].stem)[1] or _folder_name(places[0])
    classes = _classes(places[0], dataset, request)
    return SourceDraft(dataset, listings, one_root(places), classes, warnings=tuple(warnings))


def _folder_name(place: Place) -> str:
    """Return the name of the folder that holds a file, also where the file is named without it."""
    parent = place.parent if isinstance(place, RemotePlace) else place.resolve().parent
    return parent.name or place.stem


def _class_folders(files: Sequence[ShardFiles], request: ManifestRequest) -> SourceDraft:
    """Read shards as one folder; a member that several shards have is named ``SHARD/MEMBER``.

    Where no folder in them tells the split of their images, their names do.
    """
    draft = read_folder(
        one_root([item.shard.place for item in files]), request, named_by_split=True
    )
    counts = Counter(name for item in files for name in item.images)
    having = defaultdict(list)
    for item in files:
        for name in item.images:
            having[name].append(item.shard.place)
    shared = LeftOut("image(s) are in several shards under one name; they are taken as SHARD/NAME")
    shared.add(name for name, count in counts.items() if count > 1)
    turn = {name: iter(places) for name, places in having.items()}
    untold = len(draft.listings) == 1
    listings = []
    for listing in draft.listings:
        names = listing.uris if isinstance(listing.uris, list) else listing.uris.to_pylist()
        places = [next(turn[name]) for name in names]
        uris = [
            f"{place.name}/{name}" if counts[name] > 1 else name
            for name, place in zip(names, places, strict=True)
        ]
        split = _told_by_names(places) if untold and listing.split == "train" else listing.split
        listings.append(replace(listing, uris=uris, split=split))
    return replace(draft, listings=listings, warnings=(*draft.warnings, *shared.sentences()))


def _told_by_names(places: Sequence[Place]) -> str | pa.Array:
    """Return the split that the name of each image's shard tells, train where it tells none."""
    told = {place: split_in(place.stem)[0] or "train" for place in dict.fromkeys(places)}
    return text_array([told[place] for place in places])


def _listing(samples: SampleList, request: ManifestRequest) -> Listing:
    """Return the rows of one shard in its order."""
    shard, images = samples.shard, samples.images
    uris = [f"{shard.place.name}/{name}" for name in images]
    told = split_in(shard.place.stem)[0]
    columns = _columns(shard, samples.beside, request) if samples.used else {}
    if request.label_column is not None and "label" not in columns:
        raise ManifestError(
            f"{shard.place}: no .json beside its images has a field {request.label_column!r} to "
            "take labels from; correct --label-column"
        )
    labels = RowLabels(np.full(len(images), -1, dtype=np.int64))
    label = columns.pop("label", None)
    where = str(shard.place)
    if label is not None and request.labelled is not False:
        labels = read_labels(where, "label", label)
    split = told or ("pool" if label is None else "train")
    return Listing(where, uris, labels.values, split, extra=renamed(columns), notes=labels.notes)


def _untold(listings: Sequence[Listing], places: Sequence[Place]) -> list[str]:
    """Return a warning if the name of a shard with labels tells no split."""
    for listing, place in zip(listings, places, strict=True):
        if split_in(place.stem)[0] is None and listing.split == "train":
            return [f"{place.name}: its name tells no split; its rows are taken as 'train'"]
    return []


def _noticed(files: Sequence[ShardFiles], samples: Sequence[SampleList]) -> Iterator[str]:
    """Yield what to say of members that are no rows."""
    others = LeftOut(NO_IMAGES)
    unused = LeftOut("file(s) with labels or texts belong to no image")
    repeated = LeftOut("member(s) come more than once, and the last counts")
    for item, found in zip(files, samples, strict=True):
        others.add(item.others)
        unused.add(found.unused)
        repeated.add(item.shard.repeated)
    for left in (others, unused, repeated):
        yield from left.sentences()


def _without_label(listings: Sequence[Listing], in_folders: bool) -> list[str]:
    """Return a warning of images without a label, where others have one or folders could be one."""
    without = LeftOut("image(s) have no label in a file beside them")
    for listing in listings:
        labels = listing.labels
        known = labels >= 0 if isinstance(labels, np.ndarray) else [v is not None for v in labels]
        without.add(listing.uri(row) for row, has in enumerate(known) if not has)
    if without.count < sum(len(listing.uris) for listing in listings):
        return without.sentences()
    if in_folders:
        return [
            "no file beside the images holds a label, so the folders in their names are no classes"
        ]
    return []


def _columns(
    shard: TarIndex, found: Sequence[Mapping[str, str]], request: ManifestRequest
) -> dict[str, pa.Array]:
    """Return the label (if there is any) and what is carried along, one value per image."""
    records: list[JsonObject] = [_fields(shard, files, request) for files in found]
    texts = [str(record["caption"]) for record in records if "caption" in record]
    has_label = any("label" in record for record in records)
    if texts and not has_label and all(text.strip().isdecimal() for text in texts):
        records = [{"label": str(r["caption"]).strip()} if "caption" in r else r for r in records]
    names = list(dict.fromkeys(name for record in records for name in record))
    return {
        name: json_array(str(shard.place), [record.get(name) for record in records])
        for name in names
    }


def _fields(shard: TarIndex, files: Mapping[str, str], request: ManifestRequest) -> JsonObject:
    """Return what the files beside one image say: ``label``, ``caption`` and fields of its JSON.

    The request may name the field that is the label, in place of the usual names and of .cls.
    """
    wanted = request.label_column
    fields: JsonObject = {}
    if "txt" in files:
        fields["caption"] = _text(shard, files["txt"])
    if "json" in files:
        where = f"{shard.place}: the member {files['json']!r}"
        value = parse_json(_text(shard, files["json"]), where)
        if not isinstance(value, dict):
            value = {"label": value}
        value = {name.lower(): field for name, field in value.items()}
        usual = LABEL_COLUMNS if wanted is None else (wanted.lower(),)
        label = next((name for name in usual if name in value), None)
        labelled = {} if label is None else {"label": value[label]}
        value = {k: v for k, v in value.items() if k not in (label, "label")} | labelled
        if request.labelled is not False and isinstance(value.get("label"), (dict, list)):
            raise ManifestError(
                f"{where}: its label is a {type(value['label']).__name__}, not one number or name; "
                "without labels it can be read as a pool (--unlabelled)"
            )
        kept = {k: v for k, v in value.items() if not isinstance(v, (dict, list))}
        fields |= {k: v for k, v in kept.items() if k not in ("key", "split")}
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


def _classes(place: Place, dataset: str, request: ManifestRequest) -> ClassList | None:
    if isinstance(request.classes, ClassList):
        return request.classes
    path = request.classes
    if path is None and request.labelled is not False and not isinstance(place, RemotePlace):
        path = names_beside(place)
    return None if path is None else read_classes(path, dataset=dataset)
