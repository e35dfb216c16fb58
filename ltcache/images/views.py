"""Views: which crops of an image are encoded. A cache holds the features of each view apart.

=========  ======  =================================================================================
view       crops   geometry
=========  ======  =================================================================================
center     1       the encoder's own preprocessing, as open_clip does it for inference
flip       1       the same, mirrored
five       5       four corners and the centre of the image resized to 24/224 more than the
                   encoder's size (the test-time crops of LIFT; Shi et al., ICML 2024)
rrc:K      K       random resized crops (8 to 100 % of the area, aspect 3/4 to 4/3, bicubic with
                   antialias; torchvision's RandomResizedCrop), each mirrored with probability 1/2
cmo:K      K       composites: ``center`` with a box of another training image pasted into it
                   (:mod:`ltcache.images.composites`); of images that are no labelled training
                   rows, ``center`` K times
=========  ======  =================================================================================

Random numbers come from a counter-based generator (Philox) that is keyed by the seed, the SHA-256
of the image's file and the number of the crop: the same image has the same crops whatever the
order, the number of workers or the shards, and ``rrc:4`` begins with the crops of ``rrc:2``. What
``cmo:K`` pastes depends on the list of training images besides, which is part of its identity.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ltcache.errors import UsageError
from ltcache.images.preprocessing import Preprocessing

SCALE = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
MAX_CROPS = 64
_TRIES = 10
DRAWS = 4 * _TRIES + 1
"""Uniform numbers that one random crop takes."""
_SEEDS = 1 << 64


@dataclass(frozen=True)
class View:
    """One view of an image.

    Args:
        name: ``center``, ``flip``, ``five``, ``rrc:K`` or ``cmo:K``.
        seed: of random crops, 0 .. 2**64 - 1; no part of a view that has none.
        partners: digest of the images that composites are made with
            (:attr:`ltcache.images.PartnerRows.digest`); "" of other views.

    Raises:
        UsageError: no such view; names those there are.
    """

    name: str
    seed: int = 0
    partners: str = ""

    def __post_init__(self) -> None:
        kind, count = self._parts()
        if kind not in GEOMETRY or (count is None) == (kind in _RANDOM):
            known = [f"{name}:K" if name in _RANDOM else name for name in GEOMETRY]
            raise UsageError(f"no view {self.name!r}; there are {', '.join(known)}")
        if count is not None and not 1 <= count <= MAX_CROPS:
            raise UsageError(f"view {self.name!r}: 1 to {MAX_CROPS} crops")
        if not 0 <= self.seed < _SEEDS:
            raise UsageError(f"the seed of views must be 0 to 2**64 - 1, not {self.seed}")

    @property
    def crops(self) -> int:
        """Number of crops of each image."""
        kind, count = self._parts()
        return count if count is not None else 5 if kind == "five" else 1

    @property
    def random(self) -> bool:
        """Whether the crops depend on the seed."""
        return self._parts()[0] in _RANDOM

    @property
    def composite(self) -> bool:
        """Whether the crops show a second image, so that they have a second label."""
        return is_composite(self.name)

    def identity(self) -> dict[str, Any]:
        """Return name, crops, geometry and seed as JSON; of ``center`` the name says it all."""
        kind = self._parts()[0]
        if kind == "center":
            return {"name": self.name}
        value = {"name": self.name, "crops": self.crops, "geometry": dict(_DESCRIBED[kind])}
        value |= {"seed": self.seed} if self.random else {}
        return {**value, "partners": self.partners} if self.composite else value

    @classmethod
    def from_identity(cls, identity: Mapping[str, Any]) -> View:
        """Return the view of :meth:`identity`'s form.

        Raises:
            UsageError: not a view whose crops this version makes.
        """
        view = cls(identity["name"], identity.get("seed", 0), identity.get("partners", ""))
        if view.identity() != dict(identity):
            raise UsageError(f"view {view.name!r} was made with another geometry: {identity}")
        return view

    def cut(self, image: Image.Image, preprocessing: Preprocessing, content: str) -> list[Any]:
        """Return the crops of an image, of the encoder's size and in the image's own mode.

        Of a view of composites they are what is pasted into.

        Args:
            content: SHA-256 of the image's file.
        """
        return GEOMETRY[self._parts()[0]](image, preprocessing, self, content)

    def _parts(self) -> tuple[str, int | None]:
        match = re.fullmatch(r"([a-z]+)(?::([1-9][0-9]{0,3}))?", self.name)
        if match is None:
            return self.name, None
        return match[1], int(match[2]) if match[2] else None


def is_composite(name: str) -> bool:
    """Whether the view of a name is one of composites."""
    return name.partition(":")[0] == "cmo"


def parse_views(names: Sequence[str], seed: int = 0) -> list[View]:
    """Return views by their names, each once, in the order given; of composites without partners.

    Raises:
        UsageError: an unknown view, or two that differ only in case or blanks.
    """
    return [View(name, seed) for name in dict.fromkeys(name.strip() for name in names)]


def _center(image: Image.Image, preprocessing: Preprocessing, _: View, __: str) -> list[Any]:
    return [preprocessing.geometry(image)]


def _flip(image: Image.Image, preprocessing: Preprocessing, _: View, __: str) -> list[Any]:
    return [_mirrored(preprocessing.geometry(image))]


def _five(image: Image.Image, preprocessing: Preprocessing, _: View, __: str) -> list[Any]:
    return preprocessing.five_crops(image)


def _rrc(image: Image.Image, preprocessing: Preprocessing, view: View, content: str) -> list[Any]:
    height, width = preprocessing.size
    crops = []
    for number in range(view.crops):
        box, mirror = random_box(image.size, draws(view.seed, content, number))
        crop = image.crop(box).resize((width, height), Image.Resampling.BICUBIC)
        crops.append(_mirrored(crop) if mirror else crop)
    return crops


def _background(image: Image.Image, preprocessing: Preprocessing, view: View, _: str) -> list[Any]:
    return [preprocessing.geometry(image)] * view.crops


Geometry = Callable[[Image.Image, Preprocessing, View, str], "list[Any]"]

_RANDOM = ("rrc", "cmo")

GEOMETRY: dict[str, Geometry] = {
    "center": _center,
    "flip": _flip,
    "five": _five,
    "rrc": _rrc,
    "cmo": _background,
}
"""Kind of view -> its crops. A new kind also says in :data:`_DESCRIBED` what it does."""

_DESCRIBED: dict[str, dict[str, Any]] = {
    "flip": {"mirror": True},
    "five": {"larger_by": "24/224", "order": "corners by row, centre"},
    "rrc": {
        "scale": list(SCALE),
        "ratio": list(RATIO),
        "interpolation": "bicubic",
        "mirror": 0.5,
        "generator": "philox",
    },
    "cmo": {
        "partner": "a class, then a row of it",
        "share": "uniform",
        "box": "sides times the square root, truncated, clipped",
        "generator": "philox",
    },
}


def draws(seed: int, content: str, number: int, stream: int = 0) -> np.ndarray:
    """Return float64 numbers in [0, 1) for one crop of one image.

    Philox is keyed by the seed and the first half of the image's SHA-256 that fits; the rest of it,
    the crop's number and that of the stream set the counter. Raw words are scaled here, since only
    they are promised to stay what they are in later versions of numpy.
    """
    words = [int(content[i : i + 16] or "0", 16) for i in (0, 16)]
    # the lowest word of the counter counts the draws
    counter = np.array([0, stream, words[1], number], np.uint64)
    generator = np.random.Philox(key=np.array([seed, words[0]], np.uint64), counter=counter)
    raw = generator.random_raw(DRAWS)
    return np.asarray((raw >> np.uint64(11)) * 2.0**-53)


_PHILOX = np.array([0xD2E7470EE14C6C93, 0xCA5A826395121157], np.uint64)
_WEYL = np.array([0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B], np.uint64)
_LOW, _HALF = np.uint64(2**32 - 1), np.uint64(32)


def draws_of(seed: int, contents: Sequence[str], crops: int, stream: int = 0) -> np.ndarray:
    """Return the first eight of :func:`draws` for crops 0..K - 1 of n images at once, (n, K, 8).

    It is Philox 4x64 with 10 rounds, written out for arrays.
    """
    words = [[int(content[i : i + 16] or "0", 16) for content in contents] for i in (0, 16)]
    first, second = (np.array(word, np.uint64)[:, None, None] for word in words)
    shape = (len(contents), crops, 2)  # two blocks of four numbers each; numpy begins at 1
    numbers, blocks = np.arange(crops, dtype=np.uint64), np.arange(1, 3, dtype=np.uint64)
    parts = (blocks, np.uint64(stream), second, numbers[:, None])
    a, b, c, d = (np.broadcast_to(part, shape) for part in parts)
    key, other = np.broadcast_to(np.uint64(seed), shape), np.broadcast_to(first, shape)
    with np.errstate(over="ignore"):
        for _ in range(10):
            (high, low), (high2, low2) = _product(a, _PHILOX[0]), _product(c, _PHILOX[1])
            a, b, c, d = high2 ^ b ^ key, low2, high ^ d ^ other, low
            key, other = key + _WEYL[0], other + _WEYL[1]
    raw = np.stack([a, b, c, d], axis=-1).reshape(len(contents), crops, 8)
    return np.asarray((raw >> np.uint64(11)) * 2.0**-53)


def _product(numbers: np.ndarray, factor: np.uint64) -> tuple[np.ndarray, np.ndarray]:
    """Return the high and the low 64 bits of products."""
    a, b, c, d = numbers >> _HALF, numbers & _LOW, factor >> _HALF, factor & _LOW
    middle = a * d + (b * d >> _HALF)
    other = b * c + (middle & _LOW)
    return a * c + (middle >> _HALF) + (other >> _HALF), numbers * factor


def random_box(
    size: tuple[int, int],
    uniform: np.ndarray,
    scale: Sequence[float] = SCALE,
    ratio: Sequence[float] = RATIO,
) -> tuple[Any, bool]:
    """Return (left, top, right, bottom) and whether to mirror, as RandomResizedCrop draws them.

    Args:
        size: width and height of the image.
        uniform: 41 numbers in [0, 1): area, aspect and place for each of ten tries, the mirror.
        scale, ratio: least and greatest area, of the image's, and width by height.
    """
    width, height = size
    mirror = bool(uniform[-1] < 0.5)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for area, aspect, across, down in uniform[:-1].reshape(_TRIES, 4).tolist():
        pixels = width * height * (scale[0] + (scale[1] - scale[0]) * area)
        shape = math.exp(low + (high - low) * aspect)
        w, h = round(math.sqrt(pixels * shape)), round(math.sqrt(pixels / shape))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(across * (width - w + 1)), int(down * (height - h + 1))
            return (left, top, left + w, top + h), mirror
    return _central_box(width, height, ratio), mirror


def _central_box(width: int, height: int, ratio: Sequence[float]) -> tuple[int, int, int, int]:
    """Return the largest central box whose aspect is allowed; at least one pixel."""
    w, h = width, height
    if width / height < ratio[0]:
        h = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        w = max(1, round(height * ratio[1]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _mirrored(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
