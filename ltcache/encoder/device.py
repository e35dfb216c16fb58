"""Where an encoder runs; never silently on the CPU where a GPU was meant."""

from __future__ import annotations

import importlib.metadata
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ltcache.errors import EncoderError, UsageError
from ltcache.records import JsonObject

log = logging.getLogger(__name__)

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LIBRARIES = ("torch", "torchvision", "open_clip_torch", "Pillow", "numpy")


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


def own_device(device: str, local_rank: int) -> str:
    """Return the device of one of several processes on a machine: GPUs are dealt out in turn.

    A GPU that is chosen here becomes torch's current one: what names no device would else take
    memory of the first GPU in every process.

    Args:
        local_rank: number of the process on this machine; a process that sees one GPU takes that.
    """
    if device not in ("auto", "cuda") or not torch.cuda.is_available():
        return device
    place = f"cuda:{local_rank % torch.cuda.device_count()}"
    torch.cuda.set_device(place)
    return place


def numerics_of(device: torch.device, precision: str, memory_format: str) -> Mapping[str, Any]:
    """Return what the last bits of features depend on besides the encoder's identity."""
    return {
        "precision": precision,
        "device": device.type,
        "device_name": _device_name(device),
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "memory_format": memory_format,
        "tf32": _tf32() if device.type == "cuda" else None,
        "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
    }


def _has_nvidia_driver() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def _why_no_cuda() -> str:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA (install the CUDA wheel)"
    return f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds no usable GPU"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else device.type


def _tf32() -> JsonObject:
    return {
        "matmul": torch.get_float32_matmul_precision(),
        "convolution": bool(torch.backends.cudnn.allow_tf32),
    }
