"""Modules whose start values are not drawn, because a file replaces every one of them."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


def skip_random_start() -> TorchFunctionMode:
    """Return a context in which modules are built without drawing their start values."""
    return _NoRandomStart()


class _NoRandomStart(TorchFunctionMode):
    """Leave parameters as they are allocated: strict loading fills every one of them.

    Drawing random numbers for weights that a file replaces takes longer than reading the file.
    """

    _DRAWS = (
        torch.nn.init.kaiming_uniform_,
        torch.nn.init.kaiming_normal_,
        torch.nn.init.xavier_uniform_,
        torch.nn.init.normal_,
        torch.nn.init.trunc_normal_,
        torch.nn.init.uniform_,
        torch.Tensor.normal_,
        torch.Tensor.uniform_,
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self._DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))
