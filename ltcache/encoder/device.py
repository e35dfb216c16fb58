"""Where an encoder runs; never silently on the CPU where a GPU was meant."""

from __future__ import annotations

import importlib.metadata
import logging
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from ltcache.errors import EncoderError, UsageError
from ltcache.process import float32_products
from ltcache.records import JsonObject

log = logging.getLogger(__name__)

TF32 = "tf32"
PRECISIONS = {
    "fp32": torch.float32,
    TF32: torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""Name -> type of weights and activations; ``tf32`` multiplies with 10 bits of their 23."""
_TF32_FROM = (8, 0)  # compute capability: Ampere
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


def require_precision(precision: str, device: torch.device) -> None:
    """Refuse a precision that there is not, or that a device does not compute in.

    Raises:
        UsageError: names what it computes in.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("precision 'fp16' needs a GPU; on a CPU use 'fp32' or 'bf16'")
    if precision == TF32 and not has_tf32(device):
        raise UsageError(
            f"precision {TF32!r} needs an NVIDIA GPU from Ampere on (compute capability "
            f"{'.'.join(map(str, _TF32_FROM))}); {device.type} would compute in float32: use 'fp32'"
        )


def computes_in(precision: str, device: torch.device) -> bool:
    """Whether a device computes in a precision."""
    try:
        require_precision(precision, device)
    except UsageError:
        return False
    return True


def has_tf32(device: torch.device) -> bool:
    """Whether a device multiplies in TF32."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _TF32_FROM


def products_in(precision: str) -> AbstractContextManager[None]:
    """Return what lets torch multiply as a precision says, for as long as it is entered.

    Under ``fp32`` convolutions have all digits, too: torch as it comes makes them in TF32 where the
    GPU can, so that one image would have other features on another GPU.
    """
    if PRECISIONS[precision] != torch.float32:
        return nullcontext()
    return float32_products(tf32=precision == TF32)


def numerics_of(device: torch.device, precision: str, memory_format: str) -> Mapping[str, Any]:
    """Return what the last bits of features depend on besides the encoder's identity."""
    with products_in(precision):
        tf32 = _tf32() if device.type == "cuda" else None
    return {
        "precision": precision,
        "device": device.type,
        "device_name": _device_name(device),
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "memory_format": memory_format,
        "tf32": tf32,
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
