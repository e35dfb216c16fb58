"""Arrays out of the files that features come in: npy, npz, safetensors, pt; nothing is executed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ltcache.errors import UsageError, first_line

SUFFIXES = (".npy", ".npz", ".safetensors", ".pt", ".pth")


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file by name; those of a npy or a lone tensor by the file's stem.

    A npy file is mapped, not read.

    Raises:
        UsageError: unreadable, of another kind, or with more than arrays, numbers and texts in it.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".npy":
            return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False)}
        if suffix == ".npz":
            # numpy leaves a file that it opened open where its zip archive is damaged
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        if suffix == ".safetensors":
            return _read_safetensors(path)
        if suffix in (".pt", ".pth"):
            return _read_torch(path)
    except UsageError:
        raise
    except Exception as error:  # numpy lets errors of its tokenizer, of zlib and others pass
        raise UsageError(f"{path}: cannot be read ({first_line(error)})") from None
    raise UsageError(f"{path}: features are read from {', '.join(SUFFIXES)}")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return {name: _array(tensor) for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise UsageError(f"{path}: cannot be read ({first_line(error)})") from None


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    import torch

    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises many kinds
        raise UsageError(
            f"{path}: cannot be read as tensors ({first_line(error)}); code is never run from a "
            "file: save a tensor, or a dictionary of tensors and lists"
        ) from None
    if not isinstance(value, dict):
        value = {path.stem: value}
    return {str(name): _array(item) for name, item in value.items() if _is_array(item)}


def _is_array(value: Any) -> bool:
    return hasattr(value, "detach") or isinstance(value, (list, tuple, int, float))


def _array(value: Any) -> np.ndarray:
    """Return an array of what torch can hold and numpy cannot: bfloat16 and 8-bit as float32."""
    if not hasattr(value, "detach"):
        return np.asarray(value)
    tensor = value.detach().contiguous()
    try:
        return np.asarray(tensor.numpy())
    except TypeError:
        return np.asarray(tensor.float().numpy())


class StackedArrays:
    """Arrays of features one below the other, read in blocks; nothing is copied before.

    Args:
        parts: each (n, D) or (n, v, D), floating.
        what: what they are called, for messages.

    Raises:
        UsageError: no features, or shapes that do not fit each other.
    """

    def __init__(self, parts: Sequence[np.ndarray], what: str) -> None:
        for part in parts:
            if part.ndim not in (2, 3) or part.dtype.kind != "f":
                raise UsageError(
                    f"{what}: {part.dtype} {part.shape} are no features, which are floating "
                    "(rows, dimensions) or (rows, crops, dimensions)"
                )
        shapes = {(part.shape[1] if part.ndim == 3 else 1, part.shape[-1]) for part in parts}
        if len(shapes) != 1:
            raise UsageError(f"{what}: features of different shapes: {sorted(shapes)}")
        self._parts = list(parts)
        self._ends = np.cumsum([len(part) for part in parts])
        self.crops, self.dim = shapes.pop()

    def __len__(self) -> int:
        """The number of rows."""
        return int(self._ends[-1])

    def block(self, start: int, stop: int) -> np.ndarray:
        """Return rows ``start`` to ``stop`` as float32 (n, v, D)."""
        found = []
        for part, end in zip(self._parts, self._ends.tolist(), strict=True):
            first = end - len(part)
            rows = part[max(0, start - first) : max(0, stop - first)]
            if len(rows):
                with np.errstate(over="ignore"):
                    values = np.asarray(rows, dtype=np.float32)
                found.append(values.reshape(len(rows), self.crops, self.dim))
        return np.concatenate(found)
