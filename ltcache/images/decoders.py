"""What turns the bytes of a file into pixels: part of a cache's numerics.

============  ====================================================================================
decoder       what it does
============  ====================================================================================
pillow        all files by Pillow, as open_clip does
torchvision   JPEG files by torchvision, on the CPU
nvjpeg        JPEG files by NVIDIA's nvJPEG through torchvision, on a GPU
============  ====================================================================================

Only JPEG files of grey or RGB pixels are decoded otherwise than by Pillow, and only those that the
other decoder can; sizes, crops and all else are Pillow's work for every decoder.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from PIL import Image

from ltcache.errors import UsageError, first_line

if TYPE_CHECKING:
    import torch

PILLOW, NVJPEG = "pillow", "nvjpeg"
_JPEG_MODES = ("L", "RGB")

FileDecoder = Callable[[Image.Image, bytes], Image.Image]
"""From an image that Pillow has opened, and its bytes, to one whose pixels are there."""


def _by_pillow(image: Image.Image, _: bytes) -> Image.Image:
    image.load()
    return image


def _by_torchvision(image: Image.Image, data: bytes) -> Image.Image:
    return _jpeg_on(image, data, "cpu")


def _by_nvjpeg(image: Image.Image, data: bytes) -> Image.Image:
    return _jpeg_on(image, data, "cuda")


DECODERS: dict[str, FileDecoder] = {
    PILLOW: _by_pillow,
    "torchvision": _by_torchvision,
    NVJPEG: _by_nvjpeg,
}
"""Name, as it stands in a cache's numerics -> decoder."""


def require_decoder(name: str, device: str, decode_processes: int) -> None:
    """Refuse a decoder that there is not, or not here.

    Args:
        device: kind of the encoder's, ``cpu`` or ``cuda``. decode_processes: 0 for threads.

    Raises:
        UsageError: names what there is instead.
    """
    if name not in DECODERS:
        raise UsageError(f"no decoder {name!r}; there are {', '.join(DECODERS)}")
    if name == NVJPEG and device != "cuda":
        raise UsageError(
            "decoder 'nvjpeg' decodes on an NVIDIA GPU, and the encoder is not on one: take "
            "'torchvision' or 'pillow'"
        )
    if name == NVJPEG and decode_processes:
        raise UsageError(
            "decoder 'nvjpeg' decodes on the GPU of this process: leave out --decode-processes"
        )
    if name == NVJPEG:
        _require_nvjpeg()


def _require_nvjpeg() -> None:
    """Refuse a torchvision that cannot decode on a GPU: else Pillow would decode every file."""
    import torch
    from torchvision.io import decode_jpeg

    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    try:
        decode_jpeg(torch.frombuffer(file.getbuffer(), dtype=torch.uint8), device="cuda")
    except RuntimeError as error:
        raise UsageError(
            f"decoder 'nvjpeg': torchvision cannot decode on this GPU ({first_line(error)}): take "
            "'torchvision' or 'pillow'"
        ) from None


def start_of_thread(name: str, device: torch.device) -> Callable[[], None] | None:
    """Return what a thread does first that decodes: CUDA's current device is the thread's own.

    It gets a stream of its own, too, or each image would wait for the batches that the encoder has
    been given.

    Args:
        device: of the encoder.
    """
    if name != NVJPEG:
        return None
    import torch

    index = torch.cuda.current_device() if device.index is None else device.index
    return partial(_begin_on_gpu, index)


def _begin_on_gpu(index: int) -> None:
    import torch

    torch.cuda.set_device(index)
    torch.cuda.set_stream(torch.cuda.Stream(index))


def _jpeg_on(image: Image.Image, data: bytes, device: str) -> Image.Image:
    """Decode a JPEG file by torchvision; what that cannot, Pillow does or says why it cannot."""
    if image.format != "JPEG" or image.mode not in _JPEG_MODES:
        return _by_pillow(image, data)
    import torch
    from torchvision.io import decode_jpeg

    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    try:
        pixels: torch.Tensor = decode_jpeg(encoded, device=device).cpu()  # (1 or 3, H, W)
    except torch.cuda.OutOfMemoryError:  # says nothing of the file: pixels must not depend on it
        raise
    except RuntimeError:
        return _by_pillow(image, data)
    rows = pixels.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(rows[:, :, 0] if len(pixels) == 1 else rows)
