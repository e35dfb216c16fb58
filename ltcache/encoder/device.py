"""Where an encoder runs; never silently on the CPU where a GPU was meant."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import torch

from ltcache.errors import EncoderError, UsageError

log = logging.getLogger(__name__)


def choose_device(device: str) -> torch.device:
    """Return the device to run on; a GPU that stays unused is said so.

    Raises:
        UsageError: not a device's name.
        EncoderError: a GPU is asked for and torch cannot use it.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if _has_nvidia_driver():
            log.warning("an NVIDIA driver is there, but %s; encoding on the CPU", _why_no_cuda())
        return torch.device("cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        place = None
    if place is None or place.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"device {device!r} is not auto, cpu, cuda, cuda:N or mps")
    if place.type == "cuda" and not torch.cuda.is_available():
        raise EncoderError(f"device {device!r}: {_why_no_cuda()}; use device 'cpu' or 'auto'")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise EncoderError(f"device {device!r}: there are {torch.cuda.device_count()} GPUs")
    if place.type == "mps" and not torch.backends.mps.is_available():
        raise EncoderError("device 'mps': torch cannot use it here; use device 'cpu'")
    return place


def _has_nvidia_driver() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def _why_no_cuda() -> str:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA (install the CUDA wheel)"
    return f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds no usable GPU"
