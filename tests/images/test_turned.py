"""Photographs whose EXIF asks for another orientation: seen as stored, and said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from ltcache.images import Preprocessing, View, decode_views
from tests.conftest import Call, write_images
from tests.images.odd import encoded, picture

ORIENTATION = 274
WHOLE = Preprocessing((40, 50), (0.5,) * 3, (0.5,) * 3)


def with_orientation(number: int, format: str) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "a camera"  # comes before it
    exif[ORIENTATION] = number
    return encoded(picture(), format, exif=exif)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "MPO"])
@pytest.mark.parametrize(("number", "turned"), [(1, False), (3, True), (6, True), (9, False)])
def test_an_orientation_is_seen_and_the_pixels_stay(format: str, number: int, turned: bool) -> None:
    found = decode_views(with_orientation(number, format), WHOLE, [View("center")])
    plain = decode_views(encoded(picture(), format), WHOLE, [View("center")])
    assert (found.turned, plain.turned) == (turned, False)
    assert (found.width, found.height) == (50, 40)
    assert np.array_equal(found.pixels["center"], plain.pixels["center"])


def test_pillow_turns_tiff_itself() -> None:
    found = decode_views(with_orientation(6, "TIFF"), WHOLE, [View("center")])
    assert (found.turned, found.width, found.height) == (False, 40, 50)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's own, as it opens the file
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"nonsense"])
def test_metadata_that_cannot_be_read_says_nothing(exif: bytes) -> None:
    found = decode_views(encoded(picture(), "JPEG", exif=exif), WHOLE, [View("center")])
    assert not found.turned


@pytest.mark.parametrize(
    "more", [(), ("--decode-processes", 1), ("--views", "rrc:2"), ("--views", "cmo:1")]
)
def test_extraction_counts_them_once(
    more: tuple[str, ...], call: Call, tiny_clip: Path, tmp_path: Path
) -> None:
    root = tmp_path / "images"
    write_images(root / "train", {"moth": 4, "newt": 4})
    for number, orientation in enumerate((6, 8, 1)):
        (root / f"train/newt/{number}.jpg").write_bytes(with_orientation(orientation, "JPEG"))
    command = ("extract", root, "--out", tmp_path / "cache", "--model", f"local-dir:{tiny_clip}")
    status, out, err = call(*command, *more, "--json")
    assert (status, json.loads(out)["turned"]) == (0, 2)
    assert "warning: 2 images of those encoded now have a rotation in their EXIF" in err
    assert "EXIF" not in call(*command, *more)[2]  # nothing was encoded

    for number in range(2):  # the remedy that is named
        place = root / f"train/newt/{number}.jpg"
        with Image.open(place) as image:
            image.transpose(Image.Transpose.ROTATE_270).save(place)
    if "cmo:1" not in more:  # composites keep their training images
        status, out, err = call(*command, *more, "--rehash", "--json")
        assert (status, json.loads(out)["turned"], "EXIF" in err) == (0, 0, False)
        assert json.loads(out)["encoded"] > 0
