"""Augmentations against torchvision's transforms, and samples that depend on their key alone."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import functional as V

from ltcache.errors import UsageError
from ltcache.finetune.augmentation import (
    AUGMENTATIONS,
    Augmentation,
    CropFlip,
    Minimalist,
    RotateCropColour,
    Unchanged,
    sample_draws,
)
from ltcache.images import Preprocessing, decode
from ltcache.images.decoding import opened
from ltcache.images.views import DRAWS, random_box
from tests.images.odd import encoded, picture, readable

SIZE = Preprocessing((32, 24), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SQUARE = replace(SIZE, size=(32, 32))


def gradient(width: int, height: int) -> Image.Image:
    """Return a smooth image whose pixels tell where they come from."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, (x + y) / 2], axis=2).astype(np.uint8))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).transpose(2, 0, 1)


def test_draws_depend_on_each_part_of_their_key() -> None:
    def some(*key: int) -> list[float]:
        return sample_draws(*key).random(4).tolist()

    base = (3, 5, 7, 0)
    assert some(*base) == some(*base)
    others = [(4, 5, 7, 0), (3, 6, 7, 0), (3, 5, 8, 0), (3, 5, 7, 1), (3, 7, 5, 0)]
    found = {tuple(some(*key)) for key in (base, *others)}
    assert len(found) == 6
    assert min(map(min, found)) >= 0 and max(map(max, found)) < 1
    sample_draws(2**64 - 1, 2**63, 2**63).random()


def test_draws_are_the_top_bits_of_raw_words() -> None:
    """So that other versions of numpy make the same samples."""
    generator = sample_draws(1, 2, 3)
    raw = sample_draws(1, 2, 3).bit_generator.random_raw(5)
    assert generator.random(5).tolist() == ((raw >> np.uint64(11)) * 2.0**-53).tolist()
    fixed = [0.339401, 0.039137, 0.145537]
    assert sample_draws(1, 2, 3).random(3) == pytest.approx(fixed, abs=1e-6)


def test_crop_flip_cuts_the_box_it_draws() -> None:
    image, flipped = gradient(61, 47), 0
    for row in range(20):
        uniform = sample_draws(0, 0, row).random(DRAWS)
        (left, top, right, bottom), mirror = random_box(image.size, uniform)
        expected = V.resized_crop(
            image, top, left, bottom - top, right - left, SIZE.size, V.InterpolationMode.BICUBIC
        )
        found = CropFlip()(image, SIZE, sample_draws(0, 0, row))
        flipped += mirror
        assert np.array_equal(found, pixels(V.hflip(expected) if mirror else expected))
    assert 3 < flipped < 17


def test_options_of_the_crop_count() -> None:
    image = gradient(60, 60)
    whole = CropFlip(scale=[1, 1], ratio=[1, 1], flip=0.0)
    mirrored = CropFlip(scale=[1, 1], ratio=[1, 1], flip=1.0)
    expected = image.resize((32, 32), Image.Resampling.BICUBIC)
    assert np.array_equal(whole(image, SQUARE, sample_draws(0, 0, 0)), pixels(expected))
    assert np.array_equal(mirrored(image, SQUARE, sample_draws(0, 0, 0)), pixels(V.hflip(expected)))


def areas(size: tuple[int, int], progress: float) -> list[float]:
    """Return the areas of crops as shares of the image, from how fast its colours change."""
    width, height = size
    x = np.arange(width) * 255.0 / width
    image = Image.fromarray(np.broadcast_to(x.astype(np.uint8)[None, :, None], (height, width, 3)))
    found = []
    for row in range(150):
        crop = Minimalist()(image, SQUARE, sample_draws(0, 0, row), progress)[0].astype(float)
        slope = np.polyfit(np.arange(2, 30), crop.mean(axis=0)[2:30], 1)[0]
        found.append((slope * 32 / 255 * width) ** 2 / (width * height))
    return found


@pytest.mark.parametrize("size", [(200, 200), (240, 120)])
def test_minimalist_crops_are_squares_that_grow(size: tuple[int, int]) -> None:
    square = min(size) ** 2 / (size[0] * size[1])
    first = areas(size, 0.0)
    assert min(first) == pytest.approx(0.08, abs=0.02)
    assert max(first) == pytest.approx(square, abs=0.05)
    assert np.mean(first) == pytest.approx((0.08 + square) / 2, abs=0.05)
    assert min(areas(size, 1.0)) == pytest.approx(square, abs=0.03)  # the largest square


def test_minimalist_schedule() -> None:
    kind = Minimalist()
    assert kind.least(0) == pytest.approx(0.08)
    assert kind.least(0.6) == pytest.approx(0.08 + 0.92 * 0.2)
    assert kind.least(1) == 1
    values = [kind.least(t) for t in np.linspace(0, 1, 11)]
    assert values == sorted(values)


def test_minimalist_never_mirrors_and_keeps_the_whole_square() -> None:
    image = gradient(50, 50)
    found = Minimalist()(image, SQUARE, sample_draws(0, 4, 2), 1.0)
    assert np.array_equal(found, pixels(image.resize((32, 32), Image.Resampling.BICUBIC)))


def test_rotation_without_angle_and_colour_is_the_crop() -> None:
    plain = RotateCropColour(degrees=0, brightness=0, contrast=0, saturation=0)
    for row in range(5):
        found = plain(gradient(61, 47), SIZE, sample_draws(0, 0, row))
        assert np.array_equal(
            found, CropFlip(flip=0)(gradient(61, 47), SIZE, sample_draws(0, 0, row))
        )


def test_rotation_turns_about_the_crops_centre() -> None:
    """A turn of an image of rings changes nothing but at the border."""
    y, x = np.mgrid[-40:40, -40:40] + 0.5
    rings = np.cos(np.hypot(x, y) / 5) * 100 + 128
    image = Image.fromarray(np.repeat(rings[:, :, None], 3, axis=2).astype(np.uint8))
    size = replace(SIZE, size=(40, 40))
    kind = RotateCropColour(
        degrees=180, scale=(1, 1), ratio=(1, 1), brightness=0, contrast=0, saturation=0
    )
    straight = CropFlip(scale=(1, 1), ratio=(1, 1), flip=0)(image, size, sample_draws(0, 0, 0))
    for row in range(6):
        turned = kind(image, size, sample_draws(0, 0, row))
        inner = np.s_[:, 8:32, 8:32]
        difference = np.abs(turned[inner].astype(int) - straight[inner])
        assert difference.mean() < 6  # levels, of 200


def test_a_turn_brings_in_what_is_around_and_black_beyond() -> None:
    white = Image.new("RGB", (90, 90), "white")
    kind = {"degrees": 45, "brightness": 0, "contrast": 0, "saturation": 0, "ratio": (1, 1)}
    inside = RotateCropColour(**kind, scale=(0.01, 0.01))
    crops = [inside(white, SQUARE, sample_draws(0, 0, row)) for row in range(60)]
    assert np.mean([crop.min() == 255 for crop in crops]) > 0.5  # those away from the border
    whole = RotateCropColour(**kind, scale=(1, 1))(white, SQUARE, sample_draws(0, 0, 0))
    assert whole.min() == 0
    assert whole[:, 16, 16].tolist() == [255] * 3


def test_colour_changes_within_its_bounds() -> None:
    image = picture(40, 40)
    only = {"degrees": 0.0, "scale": (1, 1), "ratio": (1, 1), "contrast": 0, "saturation": 0}
    plain = np.asarray(CropFlip((1, 1), (1, 1), 0)(image, SQUARE, sample_draws(0, 0, 0)), float)
    dark = plain < 180  # not clipped at 1.4 times
    factors = []
    for row in range(100):
        found = RotateCropColour(**only, brightness=0.4)(image, SQUARE, sample_draws(0, 0, row))
        factors.append(found[dark].sum() / plain[dark].sum())
    assert 0.59 < min(factors) < 0.65
    assert 1.35 < max(factors) < 1.41
    grey = {**only, "saturation": 1.0, "brightness": 0}
    least = min(
        np.ptp(RotateCropColour(**grey)(image, SQUARE, sample_draws(0, 0, row)), axis=0).mean()
        for row in range(50)
    )
    assert least < 10 < np.ptp(plain, axis=0).mean()


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_every_readable_image_gets_its_pixels(name: str) -> None:
    augmentation = AUGMENTATIONS[name]()
    for file, data in readable().items():
        with opened(data) as image:
            image.load()
            image.info.clear()
            found = augmentation(image.copy(), SIZE, sample_draws(0, 0, 1), 0.5)
        assert found.shape == (3, 32, 24) and found.dtype == np.uint8, file
        if name == "none":
            assert np.array_equal(found, decode(data, SIZE).pixels), file


@pytest.mark.parametrize("size", [(1, 1), (3000, 1), (1, 3000), (2, 7)])
@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_odd_sizes(name: str, size: tuple[int, int]) -> None:
    image = gradient(*size)
    before = encoded(image)
    for row in range(5):
        found = AUGMENTATIONS[name]()(image, SIZE, sample_draws(0, 0, row), 0.3)
        assert found.shape == (3, 32, 24)
    assert encoded(image) == before


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_options_are_values_that_come_back(name: str) -> None:
    kind = AUGMENTATIONS[name]
    again = kind(**kind().to_dict())
    assert again == kind() == pickle.loads(pickle.dumps(kind()))
    assert kind.reference
    assert isinstance(again, Augmentation)
    assert Unchanged().to_dict() == {}


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (CropFlip, {"scale": (0.5, 0.1)}, "scale"),
        (CropFlip, {"scale": (0.0, 1.0)}, "scale"),
        (CropFlip, {"scale": (0.1, 1.1)}, "high <= 1"),
        (CropFlip, {"scale": 0.5}, "two numbers"),
        (CropFlip, {"ratio": (0, 2)}, "ratio"),
        (CropFlip, {"flip": 1.5}, "flip"),
        (Minimalist, {"scale": (0.1, 2)}, "scale"),
        (RotateCropColour, {"degrees": -1}, "degrees"),
        (RotateCropColour, {"contrast": 2}, "contrast"),
    ],
)
def test_options_out_of_range(kind: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        kind(**options)
