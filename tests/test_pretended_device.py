"""The pretended GPU computes what the CPU does, refuses what CUDA refuses, and notes waits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.pretended_device import CUDA, DeviceMixError, is_on_device, pretended_device


def test_what_it_computes_is_what_the_cpu_computes() -> None:
    layer, rows = torch.nn.Linear(4, 3), torch.randn(6, 4)
    layer(rows).square().sum().backward()
    expected = layer.weight.grad
    layer.zero_grad()
    with pretended_device():
        there = layer.to("cuda")
        there(rows.to("cuda")).square().sum().backward()
        gradient = there.weight.grad
        assert gradient is not None and gradient.device == CUDA and is_on_device(gradient)
        assert expected is not None and torch.equal(gradient.cpu(), expected)


def test_tensors_made_there_and_their_views_are_there() -> None:
    with pretended_device():
        made = torch.zeros(3, 4, device="cuda")
        made[:, 1] = 2.0
        made.view(-1)[0] = 5.0
        assert made.new_ones(2).is_cuda and torch.zeros_like(made).is_cuda
        assert made.cpu().sum() == 11 and made.to("cuda") is made


MIXED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "a sum": lambda there, here: there + here,
    "a product": lambda there, here: there @ here.T,
    "indices there of a tensor here": lambda there, here: here[there.long()],
    "numpy": lambda there, here: there.numpy(),
    "an array": lambda there, here: np.asarray(there),
    "pinning": lambda there, here: there.pin_memory(),
    "a generator of the CPU": lambda there, here: torch.rand(
        2, device="cuda", generator=torch.Generator()
    ),
    "a generator of the GPU": lambda there, here: torch.rand(2, generator=torch.Generator("cuda")),
}


@pytest.mark.parametrize("what", MIXED)
def test_two_devices_in_one_operation_are_refused(what: str) -> None:
    with pretended_device(), pytest.raises(DeviceMixError):
        MIXED[what](torch.zeros(2, 3, device="cuda"), torch.zeros(2, 3))


WAITS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "item": lambda there, here: there[0, 0].item(),
    "float": lambda there, here: float(there.sum()),
    "if": lambda there, here: bool((there > 0).any()),
    "tolist": lambda there, here: there.tolist(),
    "nonzero": lambda there, here: there.nonzero(),
    "unique": lambda there, here: there.unique(),
    "mask": lambda there, here: there[there > 0],
    "masked_select": lambda there, here: there.masked_select(there > 0),
    "bincount": lambda there, here: torch.bincount(there[0].long()),
    "equal": lambda there, here: torch.equal(there, there),
    "cpu": lambda there, here: there.cpu(),
    "to cpu": lambda there, here: there.to("cpu"),
    "into memory that is not pinned": lambda there, here: here.copy_(there, non_blocking=True),
    "to the device": lambda there, here: here.to("cuda"),
    "from memory that is not pinned": lambda there, here: here.to("cuda", non_blocking=True),
    "pinned, but at once": lambda there, here: here.pin_memory().to("cuda"),
    "values": lambda there, here: torch.tensor([1.0], device="cuda"),
    "values like others": lambda there, here: there.new_tensor(1.0),
    "a list as index": lambda there, here: there[[0, 1]],
}


@pytest.mark.parametrize("what", WAITS)
def test_a_wait_is_noted(what: str) -> None:
    with pretended_device() as log:
        there, here = torch.ones(2, 3).to("cuda"), torch.ones(2, 3)
        log.clear()
        WAITS[what](there, here)
        assert log.total() == 1, log


NONE: dict[str, Callable[[Tensor, Tensor], object]] = {
    "arithmetic": lambda there, here: (there + 1).sum(),
    "pinned": lambda there, here: here.pin_memory().to("cuda", non_blocking=True),
    "into pinned memory": lambda there, here: torch.empty(2, 3, pin_memory=True).copy_(
        there, non_blocking=True
    ),
    "a scalar of the CPU": lambda there, here: there * torch.tensor(2.0),
    "numbers as index": lambda there, here: there[there[0].long() * 0],
    "made there": lambda there, here: there.new_full((), 3.0) + torch.arange(3, device="cuda"),
    "the CPU's own": lambda there, here: here.nonzero().tolist(),
}


@pytest.mark.parametrize("what", NONE)
def test_no_wait_is_noted_where_there_is_none(what: str) -> None:
    with pretended_device() as log:
        there, here = torch.ones(2, 3).to("cuda"), torch.ones(2, 3)
        log.clear()
        NONE[what](there, here)
        assert not log.total(), log


def test_nothing_is_left_of_it() -> None:
    with pretended_device():
        assert torch.cuda.is_available()
    assert torch.Generator().device.type == "cpu" and type(torch.Generator()) is torch.Generator
    assert not is_on_device(torch.zeros(1))
