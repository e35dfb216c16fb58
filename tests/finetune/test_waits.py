"""A step of fine-tuning on a GPU, pretended: it waits for nothing, and its gradients are right."""

from __future__ import annotations

from typing import Any

import pytest

from tests.finetune.test_step import TERMS, assert_same, gradients, make_step
from tests.pretended_device import CUDA, OUTSIDE, WaitLog, pretended_device

pytestmark = pytest.mark.slow


def _on_gpu(folder: str, kind: str, head: bool, micro_batch: int) -> tuple[WaitLog, Any]:
    """Return what the second step waits for, and its loss and gradients on the CPU."""
    with pretended_device() as log:
        step = make_step(folder, TERMS[kind], head, CUDA)
        gradients(step, micro_batch)  # texts that do not train are encoded once
        step.zero_grad()
        log.clear()
        loss, found = gradients(step, micro_batch)
        waits = WaitLog({wait: n for wait, n in log.items() if wait[1] != OUTSIDE})
        return waits, (loss, {name: value.cpu() for name, value in found.items()})


@pytest.mark.parametrize(
    ("kind", "head", "micro_batch"),
    [
        ("contrastive", False, 10),
        ("contrastive", False, 4),
        ("sentences", False, 4),
        ("both", False, 10),
        ("cross entropy", True, 4),
        ("noise beside it", True, 10),
    ],
)
def test_no_step_waits_and_gradients_are_those_of_the_cpu(
    towers: dict[str, str], kind: str, head: bool, micro_batch: int
) -> None:
    waits, found = _on_gpu(towers["vit"], kind, head, micro_batch)
    assert not waits, waits.most_common()
    step = make_step(towers["vit"], TERMS[kind], head)
    gradients(step, micro_batch)
    step.zero_grad()
    assert_same(found, gradients(step, micro_batch))
