"""The exact pass on a GPU, pretended: the same lists, and so many waits in a block of the pool."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from ltcache.retrieval.scoring import block_screen
from ltcache.retrieval.scoring.pool_scores import score_pool
from tests.pretended_device import WaitLog, pretended_device
from tests.retrieval.array_pool import ArrayPool
from tests.retrieval.scoring.test_pool_scores import make

pytestmark = pytest.mark.slow

PER_BLOCK = 15
"""Most waits in a block: whether rows are finite, how many rows and pairs pass each of the screen's
stages, and the pairs themselves, whose rows the host sorts into lists. A block on a GPU has 32,000
rows of a thousand classes, so that this is little beside reading it."""
BLOCK, CLASSES = 64, 9


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_lists_are_those_of_the_cpu_and_a_block_waits_a_few_times(precision: str) -> None:
    def waits(rows: int) -> WaitLog:
        values, queries = make(rows, CLASSES, seed=1)
        labels = np.arange(4)
        with pretended_device() as log:
            there = score_pool(
                ArrayPool(values), queries, labels, 5, block=BLOCK, device="cuda",
                precision=precision,
            )  # fmt: skip
            found = WaitLog(log)
        here = score_pool(ArrayPool(values), queries, labels, 5, block=BLOCK, precision=precision)
        for name, value in vars(here).items():
            np.testing.assert_array_equal(vars(there)[name], value)
        return found

    more = waits(16 * BLOCK) - waits(8 * BLOCK)
    screen = {k: n for k, n in more.items() if k[1].startswith("retrieval/scoring/block_screen")}
    assert 0 < sum(screen.values()) <= 8 * PER_BLOCK, screen
    assert not any(kind == "copy to the device" for kind, _ in screen)


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_blocks_go_to_the_device_as_they_are_stored(kind: type[np.floating]) -> None:
    values, queries = make(100, CLASSES)
    sent: list[Tensor] = []

    def to_device(tensor: Tensor, device: torch.device) -> Tensor:
        sent.append(tensor)
        return tensor.to(device)

    with mock.patch.object(block_screen, "to_device", to_device):
        score_pool(ArrayPool(values.astype(kind)), queries, np.arange(2), 3, block=50)
    blocks = [tensor.numpy() for tensor in sent if tensor.ndim == 2]
    assert all(block.dtype == kind for block in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), values)
