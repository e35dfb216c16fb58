"""Folders of small images in class folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_images(root: Path, per_class: dict[str, int], size: int = 40) -> Path:
    """Write a folder of class folders; every class has a colour of its own, plus noise.

    Folders named after splits hold other images than each other.
    """
    rng = np.random.default_rng({"val": 1, "test": 2}.get(root.name, 0))
    for label, (name, count) in enumerate(per_class.items()):
        (root / name).mkdir(parents=True)
        color = np.random.default_rng(label).integers(0, 256, 3)
        for number in range(count):
            noise = rng.integers(-40, 40, (size, size, 3))
            pixels = np.clip(color + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:03d}.png")
    return root
