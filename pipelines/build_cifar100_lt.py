"""Build CIFAR-100-LT: CIFAR-100 with the field's exponential training profile.

    curl -LO https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz
    tar -xzf cifar-100-binary.tar.gz
    python -m pipelines.build_cifar100_lt --cifar cifar-100-binary --ratio 100 --out cifar100_lt_100
    ltcache extract cifar100_lt_100 --out cache --model ViT-B-16,openai

Class k of 100 keeps int(500 * (1 / ratio) ** (k / 99)) images: each class's images are shuffled by
numpy's legacy generator, seeded once with 0, and the first are taken, as LDAM-DRW's code does. The
test set stays whole. The images become ``images.zip``, PNG, pixel by pixel the same.

The binary version is read because the Python version is a pickle, which can execute code. That both
versions hold the images in one order, so that other code chooses the same ones, was not checked.

Result: 19,573 training images at ratio 10 (69 classes many, 31 medium, 0 few), 12,608 at 50
(41, 41, 18), 10,847 at 100 (35, 35, 30), 9,502 at 200 (30, 31, 39); 10,000 test images.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ltcache.errors import ManifestError
from ltcache.manifest import readable_name
from pipelines.manifest_directory import Row, card_of, write_images, write_manifest

CLASSES = 100
PER_CLASS = 500
SIDE = 32
_RECORD = 2 + 3 * SIDE * SIDE  # coarse label, fine label, red, green and blue planes


def class_counts(ratio: float, most: int = PER_CLASS, classes: int = CLASSES) -> list[int]:
    """Return how many training images each class keeps at an imbalance ratio."""
    return [int(most * (1 / ratio) ** (k / (classes - 1.0))) for k in range(classes)]


def read_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return fine labels uint8 (n,) and pixels uint8 (n, 32, 32, 3) of a ``.bin`` file.

    Raises:
        ManifestError: no such file, one of another length, or a label above 99.
    """
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from None
    if not len(data) or len(data) % _RECORD:
        raise ManifestError(f"{path}: {len(data)} bytes, not a multiple of {_RECORD}")
    records = data.reshape(-1, _RECORD)
    labels = records[:, 1]
    if labels.max() >= CLASSES:
        raise ManifestError(f"{path}: a fine label of {labels.max()}: not CIFAR-100")
    return labels, records[:, 2:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)


def choose(labels: np.ndarray, counts: list[int], seed: int = 0) -> np.ndarray:
    """Return the positions kept in training, class by class.

    Raises:
        ManifestError: a class has fewer images than its share.
    """
    random = np.random.RandomState(seed)
    kept = []
    for label, count in enumerate(counts):
        positions = np.flatnonzero(labels == label)
        random.shuffle(positions)
        if len(positions) < count:
            raise ManifestError(f"class {label} has {len(positions)} images, {count} are needed")
        kept.append(positions[:count])
    return np.concatenate(kept)


def build(
    cifar: Path, ratio: float, out: Path, seed: int = 0, most: int = PER_CLASS
) -> dict[str, int]:
    """Write the manifest directory ``out``; returns the number of images per split."""
    names = _class_names(cifar / "fine_label_names.txt")
    train_labels, train_pixels = read_binary(cifar / "train.bin")
    test_labels, test_pixels = read_binary(cifar / "test.bin")
    kept = choose(train_labels, class_counts(ratio, most), seed)
    splits: dict[str, list[Row]] = {
        "train": [(f"train/{i:05d}.png", int(train_labels[i])) for i in kept],
        "test": [(f"test/{i:05d}.png", int(label)) for i, label in enumerate(test_labels)],
    }

    def images() -> Iterator[tuple[str, bytes]]:
        for position in sorted(kept):
            yield f"train/{position:05d}.png", _png(train_pixels[position])
        for position, pixels in enumerate(test_pixels):
            yield f"test/{position:05d}.png", _png(pixels)

    out.mkdir(parents=True, exist_ok=True)
    write_images(out / "images.zip", images())
    card = card_of("cifar100_lt") | {
        "name": f"cifar100_lt_{ratio:g}",
        "images": "images.zip",
        "imbalance_ratio": ratio,
        "seed": seed,
    }
    classes = [{"name": readable_name(name), "source_id": name} for name in names]
    write_manifest(out, card, classes, splits)
    return {split: len(rows) for split, rows in splits.items()}


def _class_names(path: Path) -> list[str]:
    try:
        names = path.read_text("utf-8").split()
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from None
    if len(names) != CLASSES:
        raise ManifestError(f"{path}: {len(names)} names, {CLASSES} expected")
    return names


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


def main() -> None:
    """Read the arguments and build."""
    parser = argparse.ArgumentParser(description="Build CIFAR-100-LT.")
    parser.add_argument("--cifar", type=Path, required=True, help="folder with train.bin, test.bin")
    parser.add_argument("--ratio", type=float, default=100, help="imbalance ratio (10 50 100 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.ratio < 1:
        parser.error("the ratio is at least 1")
    try:
        print(build(options.cifar, options.ratio, options.out, options.seed))
    except ManifestError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
