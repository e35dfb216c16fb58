"""Small sources on disk and a plain view of a manifest's rows."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ltcache.manifest import Manifest

Row = tuple[str, int, str]


def plain(manifest: Manifest) -> list[Row]:
    """Return (uri, label, split) of every row, in order."""
    columns = (manifest.rows[name].to_pylist() for name in ("uri", "label", "split"))
    return list(zip(*columns, strict=True))


def touch(root: Path, *names: str) -> Path:
    """Make files of a few bytes below ``root``."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"image")
    return root


def zip_of(path: Path, *names: str) -> Path:
    """Make an archive with members of a few bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"" if name.endswith("/") else b"image")
    return path


def write(path: Path, text: str | bytes) -> Path:
    """Write a file as it is: no translation of line ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def manifest_dir(path: Path, card: Mapping[str, object], **files: str) -> Path:
    """Make a manifest directory; ``train_csv="..."`` is the content of train.csv."""
    write(path / "dataset.json", json.dumps(card))
    for name, content in files.items():
        stem, _, suffix = name.rpartition("_")
        write(path / f"{stem}.{suffix}", content)
    return path


def long_tail(num_classes: int, most: int, least: int) -> list[int]:
    """Return exponentially falling class counts from ``most`` to ``least``."""
    steps = max(1, num_classes - 1)
    return [round(most * (least / most) ** (k / steps)) for k in range(num_classes)]


def listed(counts: Sequence[int], names: Sequence[str], top: str = "train") -> list[str]:
    """Return ``path label`` lines with so many images of each class."""
    return [
        f"{top}/{name}/{i:08d}.jpg {label}"
        for label, (count, name) in enumerate(zip(counts, names, strict=True))
        for i in range(count)
    ]
