"""Encoders without a text tower, of whichever library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NoReturn

from ltcache.encoder.encoder import Encoder
from ltcache.errors import UsageError


class ImageEncoder(Encoder):
    """An encoder without a text tower: ``pooled`` alone.

    A subclass with a ``family`` of its own can be tuned; its model is then an
    :class:`ltcache.encoder.fields.ImageOnly`.
    """

    has_texts = False
    family: ClassVar[str | None] = None

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> NoReturn:
        """Refuse: a network that never saw a text has no place for one.

        Raises:
            UsageError: names the remedy.
        """
        raise UsageError(
            f"{self.identity['architecture']['name']} has no text tower: encode texts with a dual "
            "encoder, such as --model ViT-B-16 --pretrained openai"
        )

    def numerics(self) -> Mapping[str, Any]:
        """Return what the last bits of the features depend on besides the identity."""
        found = super().numerics()
        versions = {n: v for n, v in found["versions"].items() if n != "open_clip_torch"}
        return {**found, "versions": versions}
