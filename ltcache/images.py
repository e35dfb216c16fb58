"""From encoded bytes to the pixels that an encoder sees.

:class:`Preprocessing` is a value: it can be compared, stored as JSON and is part of the encoder's
identity. Its geometry is done by Pillow exactly as open_clip's own inference transform does it, so
the default decoder gives the same pixels bit for bit; only the conversion to float happens later,
for a whole batch at once (the same operations element by element, hence the same bits).
"""

from __future__ import annotations

import io
import re
import threading
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from ltcache.errors import ImageError, ManifestError

if TYPE_CHECKING:
    import torch

MAX_PIXELS = 178_956_970
"""Largest accepted width x height: what Pillow itself refuses as a decompression bomb."""

_INTERPOLATION = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}
_RESIZE_MODES = ("shortest", "longest", "squash")
_ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-f]+>")


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of an encoder (fields as in open_clip's ``PreprocessCfg``).

    Args:
        size: height and width in pixels.
        mean, std: per channel, of values in 0..1.
        interpolation: ``bicubic`` or ``bilinear``.
        resize_mode: ``shortest`` (then centre crop), ``longest`` (then pad) or ``squash``.
        fill_color: grey level of the padding, 0..255.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0

    def __post_init__(self) -> None:
        if self.interpolation not in _INTERPOLATION:
            raise ImageError(f"interpolation {self.interpolation!r} is not bicubic or bilinear")
        if self.resize_mode not in _RESIZE_MODES:
            raise ImageError(f"resize mode {self.resize_mode!r} is not one of {_RESIZE_MODES}")

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, as it stands in an encoder's identity."""
        return {
            "size": list(self.size),
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "resize_mode": self.resize_mode,
            "fill_color": self.fill_color,
        }

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
        )

    def geometry(self, image: Image.Image) -> Image.Image:
        """Return ``image`` resized and cropped or padded to ``size``, in its own mode."""
        if self.resize_mode == "squash":
            return _resize(image, self.size, _INTERPOLATION[self.interpolation])
        if self.resize_mode == "longest":
            resized = _keep_ratio(image, self.size, max, _INTERPOLATION[self.interpolation])
            return _center_crop(resized, self.size, self.fill_color)
        if self.size[0] == self.size[1]:
            resized = _shortest_edge(image, self.size[0], _INTERPOLATION[self.interpolation])
        else:  # open_clip takes bicubic here, whatever the interpolation says
            resized = _keep_ratio(image, self.size, min, Image.Resampling.BICUBIC)
        return _center_crop(resized, self.size, 0)

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return float32 (N, 3, H, W) from uint8 pixels, as ``ToTensor`` and ``Normalize`` do."""
        import torch

        mean = torch.tensor(self.mean, device=pixels.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(1, 3, 1, 1)
        return pixels.to(torch.float32).div_(255).sub_(mean).div_(std)


@dataclass(frozen=True)
class DecodedImage:
    """Pixels uint8 (3, H, W) at the encoder's size, and the size of the source in pixels."""

    pixels: np.ndarray
    width: int
    height: int


def decode(data: bytes, preprocessing: Preprocessing) -> DecodedImage:
    """Decode one image and bring it to the encoder's input size.

    The first frame of an animation is taken; EXIF rotation is not applied and transparency is
    dropped, as in open_clip's own transform.

    Raises:
        ImageError: empty, truncated, unknown, or larger than :data:`MAX_PIXELS`.
    """
    if not data:
        raise ImageError("empty file (0 bytes)")
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(f"{width} x {height} pixels, more than {MAX_PIXELS} (MAX_PIXELS)")
            fitted = preprocessing.geometry(image).convert("RGB")
        pixels = np.asarray(fitted).transpose(2, 0, 1)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("not an image that Pillow knows") from None
    except Exception as error:  # a decoder may raise anything on a broken file
        raise ImageError(_stable_text(error)) from None
    return DecodedImage(pixels, width, height)


class ImageStore(Protocol):
    """Where the bytes of a manifest's uris come from. Safe to use from several threads."""

    def read(self, uri: str) -> bytes:
        """Return the bytes at ``uri`` (relative to the root) or raise :class:`ImageError`."""
        ...


def open_store(root: Path | str | None) -> ImageStore:
    """Return the store of a root: a directory, or a zip file that is read without unpacking.

    Raises:
        ManifestError: there is no such directory or zip file.
    """
    if root is None:
        raise ManifestError("the manifest has no root for its images: give one with --root")
    root = Path(root)
    if root.is_dir():
        return DirectoryStore(root)
    if root.is_file() and zipfile.is_zipfile(root):
        return ZipStore(root)
    raise ManifestError(f"{root}: the root of the images is neither a directory nor a zip file")


class DirectoryStore:
    """Images as files below a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, uri: str) -> bytes:
        """See :class:`ImageStore`."""
        path = self.root / safe_uri(uri)
        try:
            return path.read_bytes()
        except OSError as error:
            raise ImageError(error.strerror or type(error).__name__) from None


class ZipStore:
    """Images as members of one zip file; each thread holds a handle of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()

    def read(self, uri: str) -> bytes:
        """See :class:`ImageStore`."""
        name = str(safe_uri(uri))
        try:
            return self._archive().read(name)
        except KeyError:
            raise ImageError("No such member in the zip file") from None
        except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise ImageError(_stable_text(error)) from None

    def _archive(self) -> zipfile.ZipFile:
        archive = getattr(self._local, "archive", None)
        if archive is None:
            archive = self._local.archive = zipfile.ZipFile(self.path)
        return archive


def safe_uri(uri: str) -> PurePosixPath:
    """Return ``uri`` as a relative path; a path that leaves its root is refused.

    Raises:
        ImageError: absolute, or with a ``..`` part.
    """
    path = PurePosixPath(uri)
    if path.is_absolute() or ".." in path.parts:
        raise ImageError("the path leaves the root of the images")
    return path


def _stable_text(error: Exception) -> str:
    """Return an error's text without memory addresses, so that records are reproducible."""
    text = _ADDRESS.sub("the image", str(error)).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _resize(image: Image.Image, size: Sequence[int], resample: Image.Resampling) -> Image.Image:
    return image.resize((size[1], size[0]), resample)


def _shortest_edge(image: Image.Image, edge: int, resample: Image.Resampling) -> Image.Image:
    width, height = image.size
    short, long = min(width, height), max(width, height)
    if short == edge:
        return image
    scaled = int(edge * long / short)
    return image.resize((edge, scaled) if width <= height else (scaled, edge), resample)


def _keep_ratio(
    image: Image.Image, size: tuple[int, int], choose: Any, resample: Image.Resampling
) -> Image.Image:
    width, height = image.size
    ratio = choose(height / size[0], width / size[1])
    return image.resize((round(width / ratio), round(height / ratio)), resample)


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
