"""Composites: a box of one training image pasted into another one (CMO; Park et al., CVPR 2022).

The background is any labelled training image; the partner is drawn from all of them, first a class
(each equally often), then a row of it. With lambda uniform in 0..1 (Beta(1, 1)) the box has sides
W sqrt(1 - lambda) and H sqrt(1 - lambda), truncated, and a uniform centre; it is clipped at the
border. Inside it the pixels of the background's crop become those of the partner's at the same
place. The share of the background's label is 1 - area / (W H) of the clipped box.

Both crops are those of ``center``, where the original takes random crops; and each composite has a
box of its own, where the original has one for a batch.

Partner and box follow from the view's seed, the SHA-256 of the background's file, the number of the
composite and the list of training rows (:class:`PartnerRows`), so that they need not be stored.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ltcache.errors import ImageError
from ltcache.images.views import View, draws, draws_of
from ltcache.manifest import whole_texts
from ltcache.records import bytes_digest, canonical_json, one_line

_STREAM = 1  # keeps these numbers apart from those of random crops with the same seed
_BLOCK = 4096

PixelBox = tuple[int, int, int, int]
"""Left, top, right, bottom; the last two are outside."""


@dataclass(frozen=True)
class CompositeDraw:
    """What one composite is made of.

    Args:
        partner: position in :class:`PartnerRows`. box: of the crop, what the partner covers.
        share: of the background's label, 0..1.
    """

    partner: int
    box: PixelBox
    share: float


@one_line
@dataclass(frozen=True, eq=False)
class PartnerRows:
    """The images that composites are made of: labelled training rows, sorted by label and key.

    Args:
        rows: their numbers in the manifest, int64 (n,). labels: int64 (n,), ascending.
        keys, uris, contents: of each row; contents are SHA-256 of the files.
    """

    COLUMNS: ClassVar = ("split", "status", "label", "key", "uri", "sha256")

    rows: np.ndarray
    labels: np.ndarray
    keys: pa.StringArray
    uris: pa.StringArray
    contents: pa.StringArray

    @classmethod
    def of(cls, table: pa.Table) -> PartnerRows:
        """Return the partners among the rows of a finished cache, of which ``COLUMNS`` are read;
        failed rows are none."""
        good = pc.and_(pc.equal(table["split"], "train"), pc.equal(table["status"], "ok"))
        keep = pc.fill_null(pc.and_(good, pc.greater_equal(table["label"], 0)), False)
        rows = np.flatnonzero(keep.to_numpy())
        part = table.select(["label", "key", "uri", "sha256"]).take(pa.array(rows))
        order = pc.sort_indices(part, sort_keys=[("label", "ascending"), ("key", "ascending")])
        part = part.take(order)
        labels = part["label"].to_numpy().astype(np.int64)
        texts = (whole_texts(part[name]) for name in ("key", "uri", "sha256"))
        return cls(rows[order.to_numpy()], labels, *texts)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of key, label and content of every row: another list draws otherwise."""
        sha = hashlib.sha256()
        for start in range(0, len(self), _BLOCK):
            part = slice(start, start + _BLOCK)
            columns = (self.keys[part], self.labels[part], self.contents[part])
            block = list(zip(*(column.tolist() for column in columns), strict=True))
            sha.update(canonical_json(block).encode())
        return sha.hexdigest()

    def have(self, content: str) -> bool:
        """Whether the image of a content is one of them, so that it has composites."""
        place = np.searchsorted(self._contents, content.encode())
        return bool(place < len(self._contents) and self._contents[place] == content.encode())

    def draw(self, view: View, content: str, number: int, size: tuple[int, int]) -> CompositeDraw:
        """Return what a composite is made of.

        Args:
            content: SHA-256 of the background's file. number: of the composite, from 0.
            size: height and width of the crop.
        """
        uniform = draws(view.seed, content, number, _STREAM)[:5].tolist()
        first, last = self._bounds[int(uniform[0] * len(self._bounds))].tolist()
        partner = first + int(uniform[1] * (last - first))
        box = paste_box(size, *uniform[2:])
        return CompositeDraw(partner, box, uncovered_share(size, box))

    def draw_all(
        self, view: View, contents: Sequence[str], size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return partners, int64 (n, K), and shares, float64 (n, K), of n backgrounds."""
        uniform = draws_of(view.seed, contents, view.crops, _STREAM)  # (n, K, 8)
        which, inside, left_of_it, across, down = np.moveaxis(uniform, 2, 0)[:5]
        first, last = np.moveaxis(self._bounds[(which * len(self._bounds)).astype(int)], 2, 0)
        side, (height, width) = np.sqrt(1 - left_of_it), size
        covered = _overlap(width, side, across) * _overlap(height, side, down)
        partners = first + (inside * (last - first)).astype(int)
        return partners, 1 - covered / (height * width)

    @cached_property
    def _bounds(self) -> np.ndarray:
        """First and last position (outside) of each class that has rows, int64 (classes, 2)."""
        first = np.flatnonzero(np.diff(self.labels, prepend=-1))
        return np.stack([first, np.append(first[1:], len(self))], axis=1)

    @cached_property
    def _contents(self) -> np.ndarray:
        return np.sort(np.array(self.contents.to_pylist(), "S64"))


@one_line
@dataclass(frozen=True, eq=False)
class PartnerImages:
    """What pastes partners into backgrounds.

    Args:
        partners: the images there are. read: uri -> the bytes of an image's file.
        crop: bytes of a file -> pixels uint8 (3, H, W) of its centre crop.
    """

    partners: PartnerRows
    read: Callable[[str], bytes]
    crop: Callable[[bytes], np.ndarray]

    def paste(self, view: View, content: str, pixels: np.ndarray) -> None:
        """Paste partners into all crops of one view of one image, in place.

        Args:
            content: SHA-256 of the image's file. pixels: uint8 (K, 3, H, W).

        Raises:
            ImageError: a partner's file is gone, broken or another one than that in the cache.
        """
        if not self.partners.have(content):
            return
        height, width = pixels.shape[2:]
        for number, crop in enumerate(pixels):
            drawn = self.partners.draw(view, content, number, (height, width))
            if drawn.share < 1:
                paste_over(crop, self._crop(drawn.partner), drawn.box)

    def _crop(self, partner: int) -> np.ndarray:
        uri = self.partners.uris[partner].as_py()
        try:
            data = self.read(uri)
            if bytes_digest(data) != self.partners.contents[partner].as_py():
                raise ImageError("the image has changed since it was encoded")
            return self.crop(data)
        except ImageError as error:
            raise ImageError(f"{uri}, which is pasted into it: {error}") from None


def paste_box(size: tuple[int, int], share: float, across: float, down: float) -> PixelBox:
    """Return the box that a partner covers, as CutMix and CMO draw it.

    Args:
        size: height and width of the crop.
        share: lambda, what is to be left of the background. across, down: place of the centre.
            All are uniform in 0..1.
    """
    height, width = size
    side = math.sqrt(1 - share)
    x, y = int(across * width), int(down * height)
    half_width, half_height = int(width * side) // 2, int(height * side) // 2
    return (
        max(x - half_width, 0),
        max(y - half_height, 0),
        min(x + half_width, width),
        min(y + half_height, height),
    )


def uncovered_share(size: tuple[int, int], box: PixelBox) -> float:
    """Return the share, 0..1, of a crop of ``size`` (height, width) that a box leaves free."""
    left, top, right, bottom = box
    return 1 - (right - left) * (bottom - top) / (size[0] * size[1])


def paste_over(pixels: np.ndarray, other: np.ndarray, box: PixelBox) -> None:
    """Put what ``other`` shows in a box into ``pixels``, both (3, H, W), in place."""
    left, top, right, bottom = box
    pixels[:, top:bottom, left:right] = other[:, top:bottom, left:right]


def _overlap(size: int, side: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return how many pixels of a side boxes of :func:`paste_box` cover, (n, K)."""
    middle, half = (centre * size).astype(int), (size * side).astype(int) // 2
    return np.minimum(middle + half, size) - np.maximum(middle - half, 0)
