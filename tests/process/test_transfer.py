"""Memory that a GPU copies from."""

from __future__ import annotations

import logging
from types import SimpleNamespace

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


def test_it_is_said_where_cuda_refuses(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refuses = SimpleNamespace(cudaHostRegister=lambda *_: 2)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: refuses)
    memory = np.zeros(3 << 20, np.uint8)
    with caplog.at_level(logging.WARNING), pinned_memory(memory, torch.device("cuda")):
        assert "CUDA does not pin 3 MB (error 2)" in caplog.text
