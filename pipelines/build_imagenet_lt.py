"""Build a manifest of ImageNet-LT from the field's text lists, for the layout that the images have.

    python -m pipelines.build_imagenet_lt --lists DIR --images /data/imagenet --out imagenet_lt
    ltcache extract imagenet_lt --root /data/imagenet --out cache --model ViT-B-16,openai

``DIR`` holds ``ImageNet_LT_train.txt``, ``ImageNet_LT_val.txt``, ``ImageNet_LT_test.txt`` and,
best, a file of class names (``classnames.txt`` with lines ``n01440764 tench``); without it classes
bear their WordNet ids. The lists have the test images, ImageNet's validation images, in class
folders; as published they lie flat. The manifest is written for what is below ``--images``.

Result with the published lists: 1,000 classes, 115,846 training, 20,000 validation and 50,000 test
images.
"""

from __future__ import annotations

from pathlib import Path

from pipelines.manifest_directory import (
    Layout,
    build_from_lists,
    card_of,
    choose_layout,
    class_rows,
    compare,
    read_lists,
    rows_by_split,
    write_manifest,
)


def sorted_val(uri: str, label: int) -> str:
    """Return a path as the lists have it: ``val/n01440764/ILSVRC2012_val_00000293.JPEG``."""
    return uri


def flat_val(uri: str, label: int) -> str:
    """Return a path with the validation images as published: ``val/ILSVRC2012_val_...``."""
    parts = uri.split("/")
    return f"val/{parts[-1]}" if parts[0] == "val" else uri


LAYOUTS: dict[str, Layout] = {"sorted": sorted_val, "flat": flat_val}


def build(lists: Path, images: Path | None, out: Path, layout: str = "auto") -> list[str]:
    """Write the manifest directory ``out``; returns the layout and what differs from the published.

    Raises:
        ManifestError: lists are missing or contradict themselves, or no image is found.
    """
    manifest = read_lists(lists, "ImageNet_LT")
    splits = rows_by_split(manifest)
    test = splits["test"]
    chosen = layout if layout != "auto" else choose_layout(images, test, LAYOUTS)
    moved = {
        split: [(LAYOUTS[chosen](uri, label), label) for uri, label in rows]
        for split, rows in splits.items()
    }
    classes = class_rows(manifest)
    write_manifest(out, card_of("imagenet_lt") | {"layout": chosen}, classes, moved)
    counts = {split: len(rows) for split, rows in splits.items()}
    return [f"layout: {chosen}", *compare("imagenet_lt", {"classes": len(classes), **counts})]


def main() -> None:
    """Read the arguments and build."""
    build_from_lists("ImageNet-LT", tuple(LAYOUTS), build)


if __name__ == "__main__":
    main()
