"""Reading and decoding images a few at a time, each into its place among the pixels of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ltcache.errors import ImageError
from ltcache.images.composites import PartnerImages, PartnerRows
from ltcache.images.decoders import PILLOW
from ltcache.images.decoding import decode_views, partner_images
from ltcache.images.preprocessing import Preprocessing
from ltcache.images.views import View
from ltcache.manifest import ImageStore, Root, open_store
from ltcache.records import bytes_digest, one_line


@dataclass(frozen=True)
class ChunkImage:
    """One image of a chunk.

    Args:
        uri: where it lies.
        content: SHA-256 that its file must have; "" where any will do.
    """

    uri: str
    content: str = ""


@dataclass(frozen=True)
class ImageOutcome:
    """What became of one image: SHA-256, size in pixels and whether it lies turned
    (:class:`ltcache.images.DecodedViews`), or why there is none."""

    content: str
    width: int
    height: int
    error: str | None = None
    excused: bool = False
    turned: bool = False


@dataclass(frozen=True, eq=False)
class ChunkDecoder:
    """Reads and decodes images in the thread that asks.

    Args:
        store: where their bytes come from.
        preprocessing: from an image to the encoder's pixels.
        partners: what composites are made with.
        decoder: one of :data:`ltcache.images.DECODERS`.
    """

    store: ImageStore
    preprocessing: Preprocessing
    partners: PartnerImages | None = None
    decoder: str = PILLOW

    def decode(
        self, images: Sequence[ChunkImage], views: Sequence[View], out: Mapping[str, np.ndarray]
    ) -> list[ImageOutcome]:
        """Decode images into ``out``: view -> uint8 (crops, n, 3, H, W).

        A bad one costs its own row only, which becomes zeros.
        """
        return [
            self._decode(image, views, {name: crops[:, row] for name, crops in out.items()})
            for row, image in enumerate(images)
        ]

    def _decode(
        self, image: ChunkImage, views: Sequence[View], out: Mapping[str, np.ndarray]
    ) -> ImageOutcome:
        """Decode one image into ``out``: view -> (crops, 3, H, W)."""
        content = ""
        try:
            data = self.store.read(image.uri)
            content = bytes_digest(data)
            if image.content and content != image.content:
                raise ImageError(
                    "the image has changed since it was encoded (--rehash takes it anew)"
                )
            found = decode_views(
                data, self.preprocessing, views, content, self.partners, self.decoder
            )
        except ImageError as error:
            blank(out)
            return ImageOutcome(content, 0, 0, str(error))
        for name, pixels in found.pixels.items():
            out[name][:] = pixels
        return ImageOutcome(content, found.width, found.height, turned=found.turned)


@one_line
@dataclass(frozen=True, eq=False)
class DecoderRecipe:
    """From what another process makes the same decoder.

    Args:
        root: where the images are.
        preprocessing: from an image to the encoder's pixels.
        partners: the images that composites are made with.
        decoder: one of :data:`ltcache.images.DECODERS`.
        modules: of the user, which add formats or views, to be imported first.
    """

    root: Root | None
    preprocessing: Preprocessing
    partners: PartnerRows | None = None
    decoder: str = PILLOW
    modules: tuple[str, ...] = ()

    def open(self) -> ChunkDecoder:
        """Return the decoder."""
        return chunk_decoder(open_store(self.root), self.preprocessing, self.partners, self.decoder)


def chunk_decoder(
    store: ImageStore,
    preprocessing: Preprocessing,
    partners: PartnerRows | None,
    decoder: str = PILLOW,
) -> ChunkDecoder:
    """Return a decoder; composites are made of images of the same store."""
    if partners is None:
        return ChunkDecoder(store, preprocessing, decoder=decoder)
    pasted = partner_images(partners, store.read, preprocessing, decoder)
    return ChunkDecoder(store, preprocessing, pasted, decoder)


def blank(out: Mapping[str, np.ndarray]) -> None:
    """Make the pixels of an image zeros: its place may have held another one."""
    for pixels in out.values():
        pixels[:] = 0
