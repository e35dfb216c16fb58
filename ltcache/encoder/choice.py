"""Which encoder a user means, as one value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EncoderChoice:
    """Which encoder to load and where it computes; see :func:`ltcache.encoder.load_encoder`.

    Args:
        model: None: the one that a record names (:func:`ltcache.encoder.recorded_encoder`), and
            ``embedded`` where nothing is recorded.
        pretrained: the weights of an architecture.
        activation: ``gelu`` or ``quick_gelu``; None: as the weights' own record says.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``...
        precision: None: ``fp32``.
        cache_dir: where downloaded weights are kept.
    """

    model: str | None = None
    pretrained: str | None = None
    activation: str | None = None
    device: str = "auto"
    precision: str | None = None
    cache_dir: str | None = None

    @property
    def name(self) -> str:
        """Return the model's name."""
        return self.model or "embedded"

    @property
    def provenance(self) -> dict[str, str | None]:
        """Return how the encoder is named, as encoders and caches record it."""
        return {"model": self.name, "pretrained": self.pretrained, "activation": self.activation}
