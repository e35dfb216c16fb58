"""What the builders of manifests share: writing a manifest directory from rows and a card."""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ltcache.errors import ManifestError
from ltcache.manifest import Manifest, packaged_manifests, read_manifest

Row = tuple[str, int]
PARTS = ("train", "val", "test")


def card_of(name: str) -> dict[str, Any]:
    """Return the packaged card of a dataset, without what only its builder needs."""
    card = json.loads((packaged_manifests() / name / "dataset.json").read_text("utf-8"))
    return {key: value for key, value in card.items() if key not in ("build", "expected")}


def expected(name: str) -> dict[str, Any]:
    """Return the published counts of a dataset: classes and images per split."""
    return dict(json.loads((packaged_manifests() / name / "dataset.json").read_text())["expected"])


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table with LF line ends."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    path.write_text(buffer.getvalue(), "utf-8", newline="\n")


def write_manifest(
    out: Path,
    card: Mapping[str, Any],
    classes: Sequence[Mapping[str, object]],
    splits: Mapping[str, Sequence[Row]],
) -> None:
    """Write ``dataset.json``, ``classes.csv`` and a list per split.

    Args:
        classes: in label order; ``name``, ``source_id`` and further columns.
        splits: split -> (path, label).
    """
    out.mkdir(parents=True, exist_ok=True)
    header = list(classes[0])
    rows = [[label, *(entry[name] for name in header)] for label, entry in enumerate(classes)]
    write_csv(out / "classes.csv", ["label", *header], rows)
    for split, pairs in splits.items():
        write_csv(out / f"{split}.csv", ("path", "label"), pairs)
    files = ["classes.csv", *(f"{split}.csv" for split in splits)]
    digests = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in files}
    text = json.dumps({**card, "sha256": digests}, indent=1, ensure_ascii=False)
    (out / "dataset.json").write_text(text + "\n", "utf-8", newline="\n")


def write_images(path: Path, images: Iterable[tuple[str, bytes]]) -> None:
    """Write a stored zip without clocks: the same images give the same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in images:
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)


def compare(name: str, found: Mapping[str, int]) -> list[str]:
    """Return a line for each count that is not the published one."""
    return [
        f"{name}: {found.get(part, 0)} in {part}, published: {count}"
        for part, count in expected(name).items()
        if isinstance(count, int) and found.get(part, 0) != count
    ]


def rows_by_split(manifest: Manifest) -> dict[str, list[Row]]:
    """Return split -> (path, label) of a manifest, in its order."""
    result: dict[str, list[Row]] = {split: [] for split in manifest.splits}
    columns = (manifest.rows[name].to_pylist() for name in ("split", "uri", "label"))
    for split, uri, label in zip(*columns, strict=True):
        result[split].append((uri, label))
    return result


def class_rows(manifest: Manifest) -> list[dict[str, object]]:
    """Return the classes of a manifest for :func:`write_manifest`."""
    pairs = zip(manifest.classes.names, manifest.classes.source_ids, strict=True)
    return [{"name": name, "source_id": source or ""} for name, source in pairs]


Layout = Callable[[str, int], str]


def choose_layout(images: Path | None, rows: Sequence[Row], layouts: Mapping[str, Layout]) -> str:
    """Return the name of the layout in which a sample of the images lies below ``images``.

    Raises:
        ManifestError: none of them finds any.
    """
    if images is None:
        return next(iter(layouts))
    sample = rows[:: max(1, len(rows) // 200)]
    found = {
        name: sum((images / move(uri, label)).is_file() for uri, label in sample)
        for name, move in layouts.items()
    }
    best = max(found, key=lambda name: found[name])
    if not found[best]:
        tried = "; ".join(f"{name}: {move(*sample[0])}" for name, move in layouts.items())
        raise ManifestError(f"none of {len(sample)} images is below {images} (tried {tried})")
    return best


def read_lists(lists: Path, dataset: str) -> Manifest:
    """Return the manifest of ``DATASET_train.txt``, ``_val.txt`` and ``_test.txt``."""
    return read_manifest([lists / f"{dataset}_{part}.txt" for part in PARTS], labelled=True)


Build = Callable[[Path, "Path | None", Path, str], list[str]]


def build_from_lists(title: str, layouts: Sequence[str], build: Build) -> None:
    """Read the arguments of a builder that rewrites published lists, and build.

    Args:
        title: of the dataset, for ``--help``.
        layouts: names of the layouts that the images may have, beside ``auto``.
        build: (lists, images, out, layout) -> what to tell; raises ManifestError.
    """
    parser = argparse.ArgumentParser(description=f"Build a manifest of {title}.")
    parser.add_argument("--lists", type=Path, required=True, help="folder of the published lists")
    parser.add_argument("--images", type=Path, help="root of the images, to find their layout")
    parser.add_argument("--layout", choices=("auto", *layouts), default="auto")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    options = parser.parse_args()
    try:
        told = build(options.lists, options.images, options.out, options.layout)
    except ManifestError as error:
        parser.exit(1, f"{error}\n")
    print("\n".join([f"wrote {options.out}", *told]))
