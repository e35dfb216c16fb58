"""Build a manifest of iNaturalist 2018 from its annotations or from the field's text lists.

    python -m pipelines.build_inaturalist18 --annotations DIR --out inaturalist18
    ltcache extract inaturalist18 --root /data/inat2018 --out cache --model ViT-B-16,openai

``DIR`` holds ``train2018.json`` and ``val2018.json``, or ``iNaturalist18_train.txt`` and
``iNaturalist18_val.txt``; and ``categories.json``, without which classes are called by number.
Labels are the category ids, as in the text lists: 0..8141, not alphabetical. ``classes.csv`` stores
the map to the order of the Latin names (``latin_rank``) that LIFT trains in, and the ranks above
the species. val2018, on which the field reports, becomes the split ``test``, so that settings are
chosen on a slice of training data.

Result with the published files: 8,142 classes, 437,513 training and 24,426 test images.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ltcache.errors import ManifestError
from ltcache.manifest import read_manifest
from ltcache.manifest.text import read_json
from pipelines.manifest_directory import Row, card_of, compare, rows_by_split, write_manifest

LEVELS = ("kingdom", "phylum", "class", "order", "family", "genus")
_SPLITS = {"train": "train", "val": "test"}


def read_annotations(path: Path) -> list[Row]:
    """Return (file name, category id) of every annotated image, in the order of the images.

    Raises:
        ManifestError: not such a file, an image without a category, or a folder whose number is not
            the category's id.
    """
    value = read_json(path)
    try:
        categories = {item["image_id"]: item["category_id"] for item in value["annotations"]}
        pairs = [(item["file_name"], categories[item["id"]]) for item in value["images"]]
    except (KeyError, TypeError) as error:
        raise ManifestError(f"{path}: not the annotations of iNaturalist: {error!r}") from None
    for name, label in pairs:
        if not isinstance(name, str) or type(label) is not int:
            raise ManifestError(f"{path}: {name!r} has the category {label!r}")
        folder = name.split("/")[-2:-1]
        if folder and folder[0].isdecimal() and int(folder[0]) != label:
            raise ManifestError(f"{path}: {name!r} lies in another folder than category {label}")
    return pairs


def read_categories(path: Path) -> list[dict[str, object]]:
    """Return the classes in id order: Latin name, id, rank among the Latin names, coarser levels.

    Raises:
        ManifestError: not such a file, or ids that are not 0, 1, 2...
    """
    value = read_json(path)
    try:
        entries: list[Mapping[str, Any]] = sorted(value, key=lambda entry: entry["id"])
        names = [str(entry["name"]) for entry in entries]
        ids = [entry["id"] for entry in entries]
    except (KeyError, TypeError) as error:
        raise ManifestError(f"{path}: not the categories of iNaturalist: {error!r}") from None
    if ids != list(range(len(ids))):
        raise ManifestError(f"{path}: the ids are not 0..{len(ids) - 1}")
    return [
        {"name": name, "source_id": label, "latin_rank": rank}
        | {level: entry.get(level, "") for level in LEVELS}
        for label, (name, rank, entry) in enumerate(
            zip(names, latin_ranks(names), entries, strict=True)
        )
    ]


def latin_ranks(names: list[str]) -> list[int]:
    """Return each name's place in alphabetical order: the label that LIFT gives that class."""
    order = np.argsort(np.array(names, dtype=object), kind="stable")
    ranks = np.empty(len(names), dtype=int)
    ranks[order] = np.arange(len(names))
    return [int(rank) for rank in ranks]


def build(annotations: Path, out: Path) -> list[str]:
    """Write the manifest directory ``out``; returns what differs from the published counts.

    Raises:
        ManifestError: files are missing or do not fit together.
    """
    splits = _splits(annotations)
    file = annotations / "categories.json"
    highest = max(label for rows in splits.values() for _, label in rows)
    if file.exists():
        classes = read_categories(file)
    else:
        classes = [{"name": f"class {k}", "source_id": k} for k in range(highest + 1)]
    if highest >= len(classes):
        raise ManifestError(f"{file}: {len(classes)} classes, but there is a label {highest}")
    write_manifest(out, card_of("inaturalist18"), classes, splits)
    counts = {split: len(rows) for split, rows in splits.items()}
    return compare("inaturalist18", {"classes": len(classes), **counts})


def _splits(annotations: Path) -> dict[str, list[Row]]:
    found = {split: annotations / f"{name}2018.json" for name, split in _SPLITS.items()}
    if all(path.exists() for path in found.values()):
        return {split: read_annotations(path) for split, path in found.items()}
    texts = [annotations / f"iNaturalist18_{name}.txt" for name in _SPLITS]
    if not all(path.exists() for path in texts):
        raise ManifestError(
            f"{annotations}: neither train2018.json and val2018.json nor {texts[0].name} and "
            f"{texts[1].name}"
        )
    rows = rows_by_split(read_manifest(texts, labelled=True))
    return {split: rows[name] for name, split in _SPLITS.items()}


def main() -> None:
    """Read the arguments and build."""
    parser = argparse.ArgumentParser(description="Build a manifest of iNaturalist 2018.")
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    try:
        differing = build(options.annotations, options.out)
    except ManifestError as error:
        parser.exit(1, f"{error}\n")
    print("\n".join([f"wrote {options.out}", *differing]))


if __name__ == "__main__":
    main()
