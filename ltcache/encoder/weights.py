"""Reading a weights file into a model: tensors only, strictly, with errors that name the keys."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from open_clip.factory import load_checkpoint, load_state_dict

from ltcache.encoder.nested import describe_content, find_weights, how_to_save, read_content
from ltcache.errors import EncoderError, first_line

MORE_THAN_TENSORS = (
    "it holds more than tensors, and code is never run from a file; where you trust who made it, "
    "save its tensors alone"
)
log = logging.getLogger(__name__)

_SHOWN = 3


def load_weights(model: Any, path: Path, name: str) -> None:
    """Load ``path`` into a model that open_clip built, as ``open_clip.load_checkpoint`` does.

    Weights of a training checkpoint are found where they stand in it (``model``, ``net``,
    ``ema``...), with or without a prefix that all names share.

    Args:
        name: what the model is called, for messages.

    Raises:
        EncoderError: a file that is damaged or holds more than tensors, or that does not fit.
    """
    try:
        _load(model, path, path, name)
    except Exception as error:  # unpickling and safetensors raise many kinds
        _load_nested(model, path, name, error)


def _load(model: Any, file: Path, path: Path, name: str) -> None:
    """Load a file; ``path`` is what the user named."""
    load_checkpoint(model, str(file), strict=True, weights_only=True, device="cpu")
    _warn_of_resizing(model, file, path, name)


def _load_nested(model: Any, path: Path, name: str, error: Exception) -> None:
    """Load weights that open_clip has not found in a file; ``error`` is what it said.

    Raises:
        EncoderError: there are none, or they do not fit.
    """
    content = _content(path)
    table = None if content is None else find_weights(content, set(model.state_dict()), path)
    if table is not None and table.tensors.keys() != content.keys():
        with tempfile.TemporaryDirectory() as folder:  # open_clip converts what it reads of a file
            alone = Path(folder) / "weights.pt"
            torch.save(dict(table.tensors), alone)
            try:
                return _load(model, alone, path, name)
            except Exception as again:
                error = again
    found = table.tensors if table is not None else _state(path)
    if not found:
        raise _damaged(path, error, content) from None
    raise EncoderError(
        f"{path} does not fit {name}:\n"
        + (misfits(model.state_dict(), found) or f"  {first_line(error)}")
    ) from None


def _content(path: Path) -> Any:
    """Return what a file holds, or None where it cannot be read."""
    try:
        return read_content(path)
    except Exception:  # unpickling and safetensors raise many kinds
        return None


def _state(path: Path) -> dict[str, torch.Tensor] | None:
    """Return the tensors of a file, or None where it holds anything else."""
    try:
        found = load_state_dict(str(path), device="cpu", weights_only=True)
    except Exception:
        return None
    is_state = isinstance(found, Mapping) and all(
        isinstance(value, torch.Tensor) for value in found.values()
    )
    return dict(found) if is_state else None


def misfits(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> str:
    """Return what is missing, unexpected or of another shape, a line for each; empty if nothing."""
    lines = []
    for kind, names in (
        ("missing", [name for name in expected if name not in found]),
        ("unexpected", [name for name in found if name not in expected]),
        (
            "of another shape",
            [
                f"{name} {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
                for name, tensor in expected.items()
                if name in found and found[name].shape != tensor.shape
            ],
        ),
    ):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            lines.append(f"  {kind}: {', '.join(names[:_SHOWN])}{more}")
    return "\n".join(lines)


def _damaged(path: Path, error: Exception, content: Any = None) -> EncoderError:
    if content is not None:
        return EncoderError(
            f"{path}: cannot be read as weights: {describe_content(content)}, and no table of "
            f"tensors that has the model's names; {how_to_save(path, '[KEY]')} saves one by itself"
        )
    text = str(error)
    hint = ""
    if "TorchScript" in text:
        hint = "; a TorchScript archive is not read: use the tag 'openai' or save its state_dict"
    elif "weights_only" in text.lower():
        hint = f"; {MORE_THAN_TENSORS}: {how_to_save(path, '[KEY]', trusted=True)}"
    reason = f"{type(error).__name__}: {first_line(error)}"
    return EncoderError(f"{path}: cannot be read as weights ({reason}){hint}")


def _warn_of_resizing(model: Any, file: Path, path: Path, name: str) -> None:
    """open_clip interpolates position embeddings of another input size without a word."""
    expected = model.state_dict()
    for key, shape in _position_shapes(file).items():
        built = expected.get(key, expected.get(key.removeprefix("text.")))
        if built is not None and tuple(built.shape) != shape:
            log.warning(
                "%s: %s was trained with shape %s and is interpolated to %s of %s",
                path, key, shape, tuple(built.shape), name,
            )  # fmt: skip


def _position_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    keys = ("visual.positional_embedding", "positional_embedding", "text.positional_embedding")
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            there = set(file.keys()) & set(keys)
            return {key: tuple(file.get_slice(key).get_shape()) for key in there}
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # an old format that cannot be mapped
        return {}
    state = state.get("state_dict", state)
    found = {name.removeprefix("module."): value for name, value in state.items()}
    return {key: tuple(found[key].shape) for key in keys if key in found}
