"""How an image becomes the input of an encoder.

:class:`Preprocessing` is a value: it can be compared, stored as JSON and is part of the encoder's
identity. Its geometry is done by Pillow exactly as open_clip's own inference transform does it, so
the default decoder gives the same pixels bit for bit; only the conversion to float happens later,
for a whole batch at once (the same operations element by element, hence the same bits).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from PIL import Image

from ltcache.errors import ImageError
from ltcache.records import JsonObject, JsonRecord

if TYPE_CHECKING:
    import torch

MAX_PIXELS = 178_956_970
"""Largest accepted width x height: what Pillow itself refuses as a decompression bomb."""

_INTERPOLATION = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}
_RESIZE_MODES = ("shortest", "longest", "squash")


@dataclass(frozen=True)
class Preprocessing(JsonRecord):
    """How an image becomes the input of an encoder (fields as in open_clip's ``PreprocessCfg``).

    Args:
        size: height and width in pixels.
        mean, std: per channel, of values in 0..1.
        interpolation: ``bicubic`` or ``bilinear``.
        resize_mode: ``shortest`` (then centre crop), ``longest`` (then pad) or ``squash``.
        fill_color: grey level of the padding, 0..255.
        crop_pct: None: as open_clip does it. A share in (0, 1]: as timm does it for evaluation, RGB
            first, then resized to ``size / crop_pct``, of which the centre is kept; not with
            ``longest``, whose padding timm fills otherwise.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0
    crop_pct: float | None = None

    def __post_init__(self) -> None:
        if self.interpolation not in _INTERPOLATION:
            raise ImageError(f"interpolation {self.interpolation!r} is not bicubic or bilinear")
        if self.resize_mode not in _RESIZE_MODES:
            raise ImageError(f"resize mode {self.resize_mode!r} is not one of {_RESIZE_MODES}")
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise ImageError(f"crop_pct {self.crop_pct!r} is not above 0 and at most 1")
        if self.crop_pct is not None and self.resize_mode == "longest":
            raise ImageError("crop_pct does not go together with resize mode 'longest'")

    def to_dict(self) -> JsonObject:
        """Return the JSON form, as it stands in an encoder's identity."""
        plain = super().to_dict()
        if self.crop_pct is None:
            del plain["crop_pct"]
        return plain

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Preprocessing:
        """Build from :meth:`to_dict`'s form; ``size`` may also be one number."""
        size = value["size"]
        height, width = (size, size) if isinstance(size, int) else size
        r, g, b = value["mean"]
        sr, sg, sb = value["std"]
        return cls(
            (int(height), int(width)),
            (float(r), float(g), float(b)),
            (float(sr), float(sg), float(sb)),
            value.get("interpolation", "bicubic"),
            value.get("resize_mode", "shortest"),
            int(value.get("fill_color", 0)),
            value.get("crop_pct"),
        )

    @property
    def rgb_first(self) -> bool:
        """Whether an image is brought to RGB before it is resized, and not after."""
        return self.crop_pct is not None

    def geometry(self, image: Image.Image) -> Image.Image:
        """Return ``image`` resized and cropped or padded to ``size``, in its own mode."""
        resample = _INTERPOLATION[self.interpolation]
        if self.resize_mode == "squash":
            height, width = self._before_crop()
            return _resize_and_crop(image, (width, height), self.size, 0, resample)
        if self.resize_mode == "longest":
            scaled = _keep_ratio(image.size, self.size, max)
            return _resize_and_crop(image, scaled, self.size, self.fill_color, resample)
        scaled, resample = self._shortest(image)
        return _resize_and_crop(image, scaled, self.size, 0, resample)

    def five_crops(self, image: Image.Image) -> list[Image.Image]:
        """Return four corners (by row) and the centre, each of ``size``, in the image's own mode.

        The image is resized as for an input that is larger by 24/224 in each direction; what such
        an input would cut off at its sides is kept for the corners.
        """
        height, width = self.size
        larger = (height + round(height * 24 / 224), width + round(width * 24 / 224))
        large = replace(self, size=larger)
        if self.resize_mode == "shortest":
            scaled, resample = large._shortest(image)
        else:
            image = large.geometry(image)
            scaled, resample = image.size, Image.Resampling.NEAREST  # never applied
        across, down = scaled[0] - width, scaled[1] - height
        places = [(x, y) for y in (0, down) for x in (0, across)]
        places.append((round(across / 2.0), round(down / 2.0)))
        if scaled[0] * scaled[1] > MAX_PIXELS:
            return [_resize_window(image, scaled, self.size, resample, at) for at in places]
        whole = image if scaled == image.size else image.resize(scaled, resample)
        return [whole.crop((x, y, x + width, y + height)) for x, y in places]

    def _shortest(self, image: Image.Image) -> tuple[tuple[int, int], Image.Resampling]:
        """Return the size before the crop that ``shortest`` resizes to, and how."""
        height, width = self._before_crop()
        resample = _INTERPOLATION[self.interpolation]
        if height == width:
            return _shortest_edge(image.size, height), resample
        if self.crop_pct is None:  # open_clip takes bicubic here, whatever the interpolation says
            resample = Image.Resampling.BICUBIC
        return _keep_ratio(image.size, (height, width), min), resample

    def _before_crop(self) -> tuple[int, int]:
        """Return the height and width that an image is fitted to before its centre is kept."""
        if self.crop_pct is None:
            return self.size
        return math.floor(self.size[0] / self.crop_pct), math.floor(self.size[1] / self.crop_pct)

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return float32 (N, 3, H, W) from uint8 pixels, as ``ToTensor`` and ``Normalize`` do."""
        import torch

        mean = torch.tensor(self.mean, device=pixels.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(1, 3, 1, 1)
        white = torch.tensor(255.0, device=pixels.device)  # for a number a GPU takes 1 / 255
        return pixels.to(torch.float32).div_(white).sub_(mean).div_(std)


def _shortest_edge(source: tuple[int, int], edge: int) -> tuple[int, int]:
    """Return width and height with the shorter one at ``edge``."""
    width, height = source
    short, long = min(width, height), max(width, height)
    if short == edge:
        return source
    scaled = int(edge * long / short)
    return (edge, scaled) if width <= height else (scaled, edge)


def _keep_ratio(
    source: tuple[int, int], size: tuple[int, int], choose: Callable[[float, float], float]
) -> tuple[int, int]:
    """Return width and height scaled by one ratio; where that rounds to 0 pixels, 1."""
    width, height = source
    ratio = choose(height / size[0], width / size[1])
    return max(1, round(width / ratio)), max(1, round(height / ratio))


def _resize_and_crop(
    image: Image.Image,
    scaled: tuple[int, int],
    size: tuple[int, int],
    fill: int,
    resample: Image.Resampling,
) -> Image.Image:
    """Resize to ``scaled`` (width, height), then crop or pad to ``size`` (height, width)."""
    if scaled[0] * scaled[1] > MAX_PIXELS:
        image = _resize_window(image, scaled, size, resample)
    elif scaled != image.size:
        image = image.resize(scaled, resample)
    return _center_crop(image, size, fill)


def _resize_window(
    image: Image.Image,
    scaled: tuple[int, int],
    size: tuple[int, int],
    resample: Image.Resampling,
    at: tuple[int, int] | None = None,
) -> Image.Image:
    """Resize only the part that a crop will keep: first across, then down, as Pillow does.

    The same pixels (rarely off by a level or two) without the gigabytes that an image of
    20,000 x 1 takes when all of it is enlarged.

    Args:
        at: left and top edge of the crop in the resized image; None: in its centre.
    """
    mode = image.mode
    weighted = {"LA": "La", "RGBA": "RGBa"}.get(mode, mode)
    image = image.convert(weighted) if weighted != mode else image
    kept = (min(scaled[0], size[1]), min(scaled[1], size[0]))
    starts = at or tuple(round((scaled[i] - kept[i]) / 2.0) for i in (0, 1))
    x, left, width = _span(image.width, scaled[0], kept[0], starts[0])
    y, top, height = _span(image.height, scaled[1], kept[1], starts[1])
    # Pillow keeps a box in single precision: a small crop keeps its numbers small
    image = image.crop((x.start, y.start, x.stop, y.stop))
    across = image.resize((kept[0], len(y)), resample, (left, 0, left + width, len(y)))
    down = across.resize(kept, resample, (0, top, kept[0], top + height))
    return down.convert(mode) if weighted != mode else down


def _span(source: int, scaled: int, kept: int, first: int) -> tuple[range, float, float]:
    """Return the source pixels that ``kept`` of ``scaled`` ones are made of, from ``first`` on.

    Returns:
        The pixels, filters' neighbours included; where the span begins in them; its length.
    """
    if kept == scaled:
        return range(source), 0.0, float(source)
    unit = source / scaled
    start = first * unit
    reach = math.ceil(3 * max(1.0, unit))
    pixels = range(
        max(0, math.floor(start) - reach), min(source, math.ceil(start + kept * unit) + reach)
    )
    return pixels, start - pixels.start, min(kept * unit, pixels.stop - start)


def _center_crop(image: Image.Image, size: tuple[int, int], fill: int) -> Image.Image:
    """Crop about the centre; pad with ``fill`` first where the image is smaller than ``size``."""
    height, width = size
    if image.width < width or image.height < height:
        image = _pad(image, size, fill)
    left = round((image.width - width) / 2.0)
    top = round((image.height - height) / 2.0)
    return image.crop((left, top, left + width, top + height))


def _pad(image: Image.Image, size: tuple[int, int], fill: int) -> Image.Image:
    from PIL import ImageOps

    across, down = max(size[1] - image.width, 0), max(size[0] - image.height, 0)
    border = (across // 2, down // 2, (across + 1) // 2, (down + 1) // 2)
    color: Any = fill if len(image.getbands()) == 1 else tuple([fill] * len(image.getbands()))
    return ImageOps.expand(image, border, color)
