"""Features on their way from the device to the CPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ltcache.records import one_line


@one_line
@dataclass(frozen=True)
class PendingFeatures:
    """Features on their way from the device; see :meth:`Encoder.submit`."""

    _features: dict[str, torch.Tensor]
    _event: torch.cuda.Event | None = None
    _held: tuple[torch.Tensor, ...] = ()

    def result(self) -> dict[str, torch.Tensor]:
        """Wait until they have arrived and return field -> float32 CPU tensor (N, dim)."""
        if self._event is not None:
            self._event.synchronize()
        return self._features


def to_cpu(tensor: torch.Tensor) -> torch.Tensor:
    """Copy out of inference mode, so that the result can take part in training."""
    return tensor.to("cpu", torch.float32, copy=True)


def copy_out(tensor: torch.Tensor) -> torch.Tensor:
    target = torch.empty(tensor.shape, dtype=torch.float32, pin_memory=True)
    return target.copy_(tensor.float(), non_blocking=True)
