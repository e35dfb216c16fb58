"""Memory that a GPU copies from."""

from __future__ import annotations

import logging
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from ltcache.process import pinned_memory
from tests.pretended_device import CPU, CUDA, pretended_device


def test_memory_is_pinned_for_as_long_as_it_lasts() -> None:
    memory = np.zeros(5000, np.uint8)
    with pretended_device():
        part = torch.from_numpy(memory[1000:2000])
        with pinned_memory(memory, CPU):
            assert not part.is_pinned()
        with pytest.raises(ZeroDivisionError), pinned_memory(memory, CUDA):
            assert part.is_pinned()
            raise ZeroDivisionError
        assert not part.is_pinned()


class RefusingRuntime:
    """CUDA's library where it pins nothing: it keeps the error until a kernel is started."""

    error = 0

    def cudaHostRegister(self, place: int, size: int, flags: int) -> int:
        self.error = 2
        return self.error

    def start_kernel(self, *_: object, **__: object) -> torch.Tensor:
        """Do as torch, which blames a kernel for whatever error there is."""
        error, self.error = self.error, 0
        if error:
            raise RuntimeError("CUDA error: out of memory")
        return torch.ones(1)


def test_it_is_said_where_cuda_refuses_and_no_later_kernel_is_blamed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refuses, on = RefusingRuntime(), []
    monkeypatch.setattr(torch.cuda, "cudart", lambda: refuses)
    monkeypatch.setattr(torch.cuda, "device", lambda place: on.append(place) or nullcontext())
    monkeypatch.setattr(torch, "ones", refuses.start_kernel)
    memory, device = np.zeros(3 << 20, np.uint8), torch.device("cuda", 1)
    with caplog.at_level(logging.WARNING), pinned_memory(memory, device):
        assert "CUDA does not pin 3 MB (error 2)" in caplog.text
        assert not refuses.error
    assert on == [device]
