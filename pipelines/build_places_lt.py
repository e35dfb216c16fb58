"""Build a manifest of Places-LT from the field's text lists, for the layout that the images have.

    python -m pipelines.build_places_lt --lists DIR --images /data/places --out places_lt
    ltcache extract places_lt --root /data/places --out cache --model ViT-B-16,openai

``DIR`` holds ``Places_LT_train.txt``, ``Places_LT_val.txt`` and ``Places_LT_test.txt``. The lists
are published for two layouts of the images: ``easy`` (``train/airfield/00000001.jpg``,
``val/airfield/Places365_val_00000001.jpg``) and ``v2`` (``data_256/a/airfield/00000001.jpg``,
``val_256/Places365_val_00000001.jpg``). Lists of either are rewritten to the one found below
``--images``; class folders are the same in both but for ``a/apartment_building/outdoor``.

Result with the published lists: 365 classes, 62,500 training, 7,300 validation and 36,500 test
images.
"""

from __future__ import annotations

from pathlib import Path

from ltcache.errors import ManifestError
from ltcache.manifest import readable_name
from pipelines.manifest_directory import (
    Layout,
    Row,
    build_from_lists,
    card_of,
    choose_layout,
    compare,
    read_lists,
    rows_by_split,
    write_manifest,
)


def folder_of(uri: str) -> str | None:
    """Return the class folder of a training path in either layout, ``easy`` in form."""
    parts = uri.split("/")
    if parts[0] == "data_256" and len(parts) >= 4:
        return "-".join(parts[2:-1])
    return parts[1] if len(parts) == 3 else None


def class_folders(rows: list[Row], num_classes: int) -> list[str]:
    """Return the class folder of every label.

    Raises:
        ManifestError: a class has no image in a class folder, or images in two.
    """
    found: dict[int, str] = {}
    for uri, label in rows:
        folder = folder_of(uri)
        if folder is not None and found.setdefault(label, folder) != folder:
            raise ManifestError(f"label {label} is {found[label]!r} and, in {uri!r}, {folder!r}")
    if missing := [label for label in range(num_classes) if label not in found]:
        raise ManifestError(
            f"{len(missing)} classes have no class folder, first label {missing[0]}"
        )
    return [found[label] for label in range(num_classes)]


def layouts(folders: list[str]) -> dict[str, Layout]:
    """Return the two layouts: name -> (path, label) -> path in that layout."""

    def is_val(uri: str) -> bool:
        return uri.startswith(("val/", "val_256/"))

    def easy(uri: str, label: int) -> str:
        return f"{'val' if is_val(uri) else 'train'}/{folders[label]}/{uri.rpartition('/')[2]}"

    def v2(uri: str, label: int) -> str:
        name = uri.rpartition("/")[2]
        if is_val(uri):
            return f"val_256/{name}"
        return f"data_256/{folders[label][0]}/{folders[label].replace('-', '/')}/{name}"

    return {"easy": easy, "v2": v2}


def build(lists: Path, images: Path | None, out: Path, layout: str = "auto") -> list[str]:
    """Write the manifest directory ``out``; returns the layout and what differs from the published.

    Raises:
        ManifestError: lists are missing or contradict themselves, or no image is found.
    """
    manifest = read_lists(lists, "Places_LT")
    splits = rows_by_split(manifest)
    rows = [row for part in splits.values() for row in part]
    folders = class_folders(rows, manifest.num_classes)
    known = layouts(folders)
    chosen = layout if layout != "auto" else choose_layout(images, rows, known)
    moved = {
        split: [(known[chosen](uri, label), label) for uri, label in part]
        for split, part in splits.items()
    }
    classes = [{"name": readable_name(name), "source_id": name} for name in folders]
    write_manifest(out, card_of("places_lt") | {"layout": chosen}, classes, moved)
    counts = {split: len(part) for split, part in splits.items()}
    return [f"layout: {chosen}", *compare("places_lt", {"classes": len(classes), **counts})]


def main() -> None:
    """Read the arguments and build."""
    build_from_lists("Places-LT", ("easy", "v2"), build)


if __name__ == "__main__":
    main()
