"""Two processes that share a batch train as one process with all of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ltcache.finetune.gather import gathered_rows, ranks
from ltcache.finetune.objective import EmbeddedBatch, TuningObjective
from ltcache.finetune.spec import ObjectiveTerm

COUNTS = torch.tensor([9.0, 5.0, 2.0])
TERMS = [ObjectiveTerm("contrastive"), ObjectiveTerm("class_balanced", weight=0.5)]
SHARES = (4, 3)  # of unlike length, as at the end of an epoch


class TinyStep(nn.Module):
    """Towers and loss in one module, as DDP wraps them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5))
        self.text = nn.Linear(4, 5)
        self.log_scale = nn.Parameter(torch.tensor(1.5))
        self.objective = TuningObjective(TERMS, COUNTS)
        self.double()

    def forward(self, pixels: Tensor, labels: Tensor, words: Tensor) -> Tensor:
        images, labels = gathered_rows(self.image(pixels), labels)
        scale = self.log_scale.exp()
        value: Tensor = self.objective(EmbeddedBatch(images, labels, scale, self.text(words)))
        return value


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(sum(SHARES), 6, generator=generator, dtype=torch.float64)
    words = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    return pixels, torch.tensor([0, 1, 0, 2, 0, 1, 2]), words


def train(rank: int, folder: str) -> None:
    """Take one step as one of two processes, and leave loss and gradients in a file."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=len(SHARES)
    )
    pixels, labels, words = batch()
    mine = slice(sum(SHARES[:rank]), sum(SHARES[: rank + 1]))
    step = TinyStep()
    parallel = nn.parallel.DistributedDataParallel(step)  # averages as long as it lives
    loss = parallel(pixels[mine], labels[mine], words)
    loss.backward()
    found = {name: value.grad.numpy() for name, value in step.named_parameters()}
    np.savez(f"{folder}/{rank}.npz", loss=loss.detach().numpy(), **found)
    torch.distributed.destroy_process_group()


def test_one_process_keeps_its_tensors() -> None:
    rows = torch.randn(3, 2, requires_grad=True)
    assert ranks() == 1
    assert gathered_rows(rows, rows)[0] is rows


def test_two_ranks_equal_one_with_the_joined_batch(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(train, (str(tmp_path),), len(SHARES), start_method="fork")
    step = TinyStep()
    loss = step(*batch())
    loss.backward()
    for rank in range(len(SHARES)):
        with np.load(tmp_path / f"{rank}.npz") as found:
            assert found["loss"] == pytest.approx(loss.item(), rel=1e-12)
            for name, value in step.named_parameters():
                assert value.grad is not None and float(value.grad.abs().max()) > 0
                np.testing.assert_allclose(found[name], value.grad, rtol=1e-9, atol=1e-12)
