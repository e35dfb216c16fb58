"""What happens to a training image: cut, turned, coloured, and always of the encoder's size.

====================  ============================================================================
name                  what it does
====================  ============================================================================
crop_flip             random resized crop and mirror, as nearly all fine-tuning of CLIP has it
minimalist            a square crop whose smallest area grows to the whole image, no mirror (LIFT+)
rotate_crop_colour    rotation, crop and colour as TIN names them; the amounts are a reconstruction
none                  the encoder's own geometry, as extraction has it
====================  ============================================================================

An image is cut and resized in its own mode and then becomes RGB, as in extraction, by Pillow's
bicubic filter with antialias (open_clip takes bicubic for training crops of every model). Random
numbers come from a counter (:func:`sample_draws`), so that a sample is the same whatever process
makes it, and in whatever order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageEnhance

from ltcache.errors import UsageError
from ltcache.images import DRAWS, RATIO, SCALE, Preprocessing, random_box
from ltcache.records import JsonRecord

Box = tuple[float, float, float, float]

_STREAM = 0x66696E6574756E65  # keeps these numbers apart from those of views with the same seed


def sample_draws(seed: int, epoch: int, row: int, repeat: int = 0) -> np.random.Generator:
    """Return the random numbers of one sample: Philox, keyed by the seed, placed by the rest.

    Only ``random()`` is to be taken from it: it is the top 53 bits of each raw word in every
    version of numpy, while other draws may change.

    Args:
        seed, epoch, row: 0 .. 2**64 - 1 each; the row's number in the manifest.
        repeat: how many times the row came up before in this epoch.
    """
    return counted_draws(seed, _STREAM, repeat, row, epoch)


def counted_draws(seed: int, stream: int, *place: int) -> np.random.Generator:
    """Return the random numbers of one place, three numbers, in one of several streams of a seed;
    see :func:`sample_draws`."""
    counter = np.array([0, *place], np.uint64)  # the first word counts the draws
    return np.random.Generator(
        np.random.Philox(key=np.array([seed, stream], np.uint64), counter=counter)
    )


class Augmentation(JsonRecord):
    """Base of all augmentations: values that can be compared, sent to a process and written down.

    Attributes:
        reference: where it comes from.
    """

    reference: ClassVar[str]

    def __call__(
        self,
        image: Image.Image,
        preprocessing: Preprocessing,
        draws: np.random.Generator,
        progress: float = 0.0,
    ) -> np.ndarray:
        """Return uint8 (3, H, W) of the encoder's size.

        Args:
            image: in any mode; it is not changed.
            draws: what is random about it, see :func:`sample_draws`.
            progress: 0 in the first epoch to 1 in the last.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class CropFlip(Augmentation):
    """RandomResizedCrop and mirror (torchvision's distribution).

    Args:
        scale: least and greatest area of the crop, of the image's. ratio: of width to height.
        flip: probability of the mirror.

    Raises:
        UsageError: an option outside its range.
    """

    scale: Sequence[float] = SCALE
    ratio: Sequence[float] = RATIO
    flip: float = 0.5

    reference: ClassVar[str] = "Szegedy et al., CVPR 2015; LIFT, ICML 2024"

    def __post_init__(self) -> None:
        _range(self, "scale", 1.0)
        _range(self, "ratio", math.inf)
        _share(self, "flip")

    def __call__(
        self,
        image: Image.Image,
        preprocessing: Preprocessing,
        draws: np.random.Generator,
        progress: float = 0.0,
    ) -> np.ndarray:
        """See :class:`Augmentation`."""
        uniform = draws.random(DRAWS)
        box, _ = random_box(image.size, uniform, self.scale, self.ratio)
        crop = self._cut(image, box, preprocessing.size, draws)
        if uniform[-1] < self.flip:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return _channels(self._coloured(crop, draws))

    def _cut(
        self, image: Image.Image, box: Box, size: tuple[int, int], draws: np.random.Generator
    ) -> Image.Image:
        return _resized(image, box, size)

    def _coloured(self, image: Image.Image, draws: np.random.Generator) -> Image.Image:
        return image


@dataclass(frozen=True)
class Minimalist(Augmentation):
    """A square crop at a random place, resized; in the last epoch the largest one there is.

    Its area is uniform between s_min and s_max of the image's, both at most that of the largest
    square; s_min grows from ``scale[0]`` to ``scale[1]`` by 1 - sqrt(1 - t^2), t the progress.

    Args:
        scale: least area in the first epoch, and greatest area.

    Raises:
        UsageError: an option outside its range.
    """

    scale: Sequence[float] = SCALE

    reference: ClassVar[str] = "LIFT+, arXiv 2504.13282"

    def __post_init__(self) -> None:
        _range(self, "scale", 1.0)

    def __call__(
        self,
        image: Image.Image,
        preprocessing: Preprocessing,
        draws: np.random.Generator,
        progress: float = 0.0,
    ) -> np.ndarray:
        """See :class:`Augmentation`."""
        area, across, down = draws.random(3).tolist()
        width, height = image.size
        square = min(width, height) ** 2 / (width * height)
        low, high = min(self.least(progress), square), min(self.scale[1], square)
        edge = max(1, round(math.sqrt(width * height * (low + (high - low) * area))))
        left, top = int(across * (width - edge + 1)), int(down * (height - edge + 1))
        return _channels(_resized(image, (left, top, left + edge, top + edge), preprocessing.size))

    def least(self, progress: float) -> float:
        """Return the least area of a crop at ``progress`` 0..1, of the image's."""
        low, high = self.scale
        return low + (high - low) * (1 - math.sqrt(1 - min(max(progress, 0.0), 1.0) ** 2))


@dataclass(frozen=True)
class RotateCropColour(CropFlip):
    """Random resized crop, turned about its centre, then brightness, contrast and saturation.

    TIN names rotation, cropping and colour without amounts. Colour is that of the ImageNet-LT
    recipe of Kang et al. (ICLR 2020), the crop torchvision's, the angle a choice. What a turn
    brings into the crop is the image around it, and black beyond its border.

    Args:
        degrees: largest angle either way.
        scale, ratio, flip: see :class:`CropFlip`.
        brightness, contrast, saturation: factors are uniform in 1 - x .. 1 + x; applied in random
            order, as torchvision's ColorJitter does it.

    Raises:
        UsageError: an option outside its range.
    """

    flip: float = 0.0
    degrees: float = 15.0
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4

    reference: ClassVar[str] = "TIN names the kinds; amounts are a reconstruction"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("brightness", "contrast", "saturation"):
            _share(self, name)
        if not 0 <= self.degrees <= 180:
            raise UsageError(f"degrees={self.degrees:g} must be 0 to 180")

    def _cut(
        self, image: Image.Image, box: Box, size: tuple[int, int], draws: np.random.Generator
    ) -> Image.Image:
        return _turned(image, box, size, self.degrees * (2 * draws.random() - 1))

    def _coloured(self, image: Image.Image, draws: np.random.Generator) -> Image.Image:
        uniform = draws.random(6)
        kinds = (
            (ImageEnhance.Brightness, self.brightness),
            (ImageEnhance.Contrast, self.contrast),
            (ImageEnhance.Color, self.saturation),
        )
        for number in np.argsort(uniform[3:]).tolist():
            kind, amount = kinds[number]
            if amount:
                image = kind(image).enhance(1 + amount * (2 * float(uniform[number]) - 1))
        return image


@dataclass(frozen=True)
class Unchanged(Augmentation):
    """The encoder's own geometry: the pixels of the cache's ``center`` view."""

    reference: ClassVar[str] = "the encoder's preprocessing"

    def __call__(
        self,
        image: Image.Image,
        preprocessing: Preprocessing,
        draws: np.random.Generator,
        progress: float = 0.0,
    ) -> np.ndarray:
        """See :class:`Augmentation`."""
        return _channels(preprocessing.geometry(image))


AUGMENTATIONS: dict[str, type[Augmentation]] = {
    "crop_flip": CropFlip,
    "minimalist": Minimalist,
    "rotate_crop_colour": RotateCropColour,
    "none": Unchanged,
}


def _resized(image: Image.Image, box: Box, size: tuple[int, int]) -> Image.Image:
    """Return a crop (left, top, right, bottom) at ``size`` (height, width), in the image's mode."""
    height, width = size
    crop = image.crop(box)
    return crop.resize((width, height), Image.Resampling.BICUBIC)


def _turned(image: Image.Image, box: Box, size: tuple[int, int], angle: float) -> Image.Image:
    """Return a crop at ``size`` (height, width), RGB, turned by ``angle`` degrees in its frame.

    The crop is first widened by what the turn brings in, and cut back after it.
    """
    height, width = size
    cos, sin = abs(math.cos(math.radians(angle))), abs(math.sin(math.radians(angle)))
    # of the parity of the size, so that the centres are the same
    wide = width + 2 * math.ceil((width * cos + height * sin - width) / 2)
    high = height + 2 * math.ceil((height * cos + width * sin - height) / 2)
    wide, high = max(wide, width), max(high, height)
    left, top, right, bottom = box
    across, down = (right - left) * (wide / width - 1) / 2, (bottom - top) * (high / height - 1) / 2
    around = (left - across, top - down, right + across, bottom + down)
    whole = _resized(image, around, (high, wide)).convert("RGB")
    turned = whole.rotate(angle, Image.Resampling.BILINEAR)
    x, y = (wide - width) // 2, (high - height) // 2
    return turned.crop((x, y, x + width, y + height))


def _channels(image: Image.Image) -> np.ndarray:
    """Return uint8 (3, H, W)."""
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def _range(owner: Any, name: str, most: float) -> None:
    """Check and keep a pair of numbers, 0 < low <= high <= most."""
    value = getattr(owner, name)
    numbers = tuple(float(x) for x in value) if isinstance(value, (list, tuple)) else ()
    if len(numbers) != 2 or not 0 < numbers[0] <= numbers[1] <= most:
        limit = f" <= {most:g}" if math.isfinite(most) else ""
        raise UsageError(f"{name}={value} must be two numbers, 0 < low <= high{limit}")
    object.__setattr__(owner, name, numbers)


def _share(owner: Any, name: str) -> None:
    value = getattr(owner, name)
    if not 0 <= value <= 1:
        raise UsageError(f"{name}={value} must lie in 0 <= {name} <= 1")
