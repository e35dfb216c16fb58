"""Missing files: counted fast, with a hint at the layout."""

from __future__ import annotations

import time
import unicodedata
from pathlib import Path

import pytest

from ltcache.errors import ManifestError
from ltcache.manifest import Manifest, missing_files, read_manifest
from tests.manifest.helpers import touch, write, zip_of


def listing(tmp_path: Path, root: Path, *uris: str) -> Manifest:
    """Return a manifest of some uris below a root."""
    path = write(tmp_path / "train.txt", "".join(f"{uri} 0\n" for uri in uris))
    return read_manifest(path, root=root)


def test_nothing_is_missing(tmp_path: Path) -> None:
    found = missing_files(listing(tmp_path, touch(tmp_path / "r", "a b/1.jpg"), "a b/1.jpg"))
    assert (found.count, found.total, found.first, found.hint) == (0, 1, (), "")
    assert not found
    assert "all 1 images are below" in str(found)


def test_first_five_and_count(tmp_path: Path) -> None:
    root = touch(tmp_path / "r", "a/1.jpg")
    (root / "a" / "2.jpg").mkdir()  # a folder is no image
    found = missing_files(listing(tmp_path, root, *(f"a/{k}.jpg" for k in range(1, 9))))
    assert (found.count, found.total, found.hint) == (7, 8, "")
    assert found.first == tuple(f"a/{k}.jpg" for k in range(2, 7))
    assert "7 of 8 images are missing" in str(found)


@pytest.mark.parametrize(
    ("files", "uris", "hint"),
    [
        (["a/1.jpg"], ["r/a/1.jpg"], "one level too low: give --root "),
        (["a/1.jpg"], ["train/a/1.jpg"], "without the leading 'train/'"),
        (["data/a/1.jpg"], ["a/1.jpg"], "the files lie below 'data/'"),
        (["data_256/a/airfield/1.jpg"], ["train/airfield/1.jpg"], "'train/airfield/...' folders,"),
        (
            ["data_256/b/bazaar/indoor/1.jpg"],
            ["train/bazaar-indoor/1.jpg"],
            "'train/airfield/...' folders,",
        ),
        (["val_256/1.jpg"], ["val/airfield/1.jpg"], "'train/airfield/...' folders,"),
        (
            ["train/airfield/1.jpg"],
            ["data_256/a/airfield/1.jpg"],
            "for Places' 'data_256/a/airfield/...' folders",
        ),
        (["val/1.JPEG"], ["val/n01440764/1.JPEG"], "without class folders"),
        (["a/1.JPEG"], ["a/1.jpg"], "another suffix"),
        (["A/X.PNG"], ["a/x.png"], "upper and lower case"),
        (["a/ä.jpg"], [unicodedata.normalize("NFD", "a/ä.jpg")], "Unicode form"),
        (["b/1.jpg"], ["a/1.jpg"], "none of the images is below"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_hints(tmp_path: Path, files: list[str], uris: list[str], hint: str, packed: bool) -> None:
    if packed and "too low: give" in hint:
        hint = "none of the images"  # an archive has no parent to try
    root = zip_of(tmp_path / "r.zip", *files) if packed else touch(tmp_path / "r", *files)
    found = missing_files(listing(tmp_path, root, *uris))
    assert found.count == len(uris)
    if packed and hint == "none of the images":
        hint = "without the leading 'r/'"
    assert hint in found.hint
    assert found.hint in str(found)


def test_roots(tmp_path: Path) -> None:
    manifest = listing(tmp_path, touch(tmp_path / "r", "a/1.jpg"), "a/1.jpg")
    stored = Manifest.from_header(manifest.header(), manifest.rows)
    with pytest.raises(ManifestError, match="no root is known"):
        missing_files(stored)
    assert missing_files(stored, tmp_path / "r").count == 0
    assert "does not exist" in missing_files(stored, tmp_path / "absent").hint
    with pytest.raises(ManifestError, match="neither a folder nor an archive"):
        listing(tmp_path, tmp_path / "absent", "a/1.jpg")


def test_speed(tmp_path: Path) -> None:
    root = touch(tmp_path / "r", *(f"{k}/1.jpg" for k in range(50)))
    manifest = listing(tmp_path, root, *(f"{i % 50}/{i}.jpg" for i in range(50_000)))
    start = time.process_time()
    found = missing_files(manifest)
    assert found.count == 50_000 - 1
    assert time.process_time() - start < 2  # one listing per folder: well under 0.1 s
