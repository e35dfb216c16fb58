"""What is not said anew is as a cache was begun: decoder, precision, compute threads."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from ltcache.cache import Plan
from ltcache.images import PILLOW
from ltcache.process import THREADS, threads_of_passes
from ltcache.records import require_equal

FP32 = "fp32"


def decoder_as_begun(asked: str | None, begun: Plan | None, out: Path) -> str:
    """Return what decodes: as asked, or as the cache was begun with; else Pillow.

    Raises:
        IdentityError: the cache was begun with another one.
    """
    return _as_begun("decoder", asked, begun.decoder if begun else None, out) or PILLOW


def precision_as_begun(asked: str | None, begun: Plan | None, device: str, out: Path) -> str:
    """Return what to encode in: as asked, or as the cache was begun with; else float32.

    Float32 also where the device cannot compute in the cache's precision: labels and splits can be
    changed there, and whatever is encoded is refused, since the numerics differ.

    Raises:
        IdentityError: the cache was begun with another one than is asked for.
    """
    from ltcache.encoder import choose_device, computes_in

    held = begun.numerics["precision"] if begun else None
    wanted = _as_begun("precision", asked, held, out) or FP32
    if asked is None and wanted != FP32 and not computes_in(wanted, choose_device(device)):
        return FP32
    return wanted


def threads_as_begun(
    asked: int | None, begun: Plan | None, device: str
) -> AbstractContextManager[None]:
    """Return what sets the compute threads of a pass for a while: as asked, or as the cache was
    begun with; else one on a CPU, of which several passes run at once.

    Args:
        device: kind of the encoder's.
    """
    held = begun.numerics.get("threads") if begun else None
    return threads_of_passes(asked or held or (THREADS if device == "cpu" else None))


def _as_begun(what: str, asked: str | None, held: str | None, out: Path) -> str | None:
    if held is None:
        return asked
    require_equal(
        "numerics", {what: held}, {what: asked or held},
        remedy=f"{out} was made with the expected value: leave --{what} out, or choose another "
        "--out",
    )  # fmt: skip
    return held
