"""Steps by torch's kernels alone are those of torch's optimisers, to the bit."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from ltcache.fit.optimiser import FusedSteps, optimiser_of, set_lr, steps_of
from ltcache.methods import Optimisation

KINDS = [
    Optimisation(),
    Optimisation(optimiser="sgd", momentum=0.9),
    Optimisation(optimiser="sgd", momentum=0.0),
]


def parameters(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(7, 5), (7,), (3, 4, 2), (1,)]
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def groups(of: list[Tensor]) -> list[dict[str, object]]:
    return [
        {"params": of[:1], "weight_decay": 0.1, "factor": 1.0},
        {"params": of[1:], "weight_decay": 0.0, "factor": 0.3},
    ]


@pytest.mark.parametrize("optimisation", KINDS, ids=["adamw", "momentum", "plain"])
@pytest.mark.parametrize("seed", range(3))
def test_steps_are_those_of_torch(optimisation: Optimisation, seed: int) -> None:
    ours, theirs = parameters(seed), parameters(seed)
    fast, slow = (
        steps_of(groups(ours), optimisation),
        optimiser_of(groups(theirs), optimisation),
    )
    assert isinstance(fast, FusedSteps)
    generator = torch.Generator().manual_seed(seed)
    for step in range(12):
        for own, other in zip(ours, theirs, strict=True):
            gradient = torch.randn(own.shape, generator=generator)
            skipped = own.ndim == 3 and step % 3 == 2  # what a batch does not reach
            own.grad = None if skipped else gradient.clone()
            other.grad = None if skipped else gradient.clone()
        for optimiser in (fast, slow):
            set_lr(optimiser, 0.1 / (1 + step))
            optimiser.step()
            optimiser.zero_grad()
        assert all(own.grad is None for own in ours)
        assert all(torch.equal(own, other) for own, other in zip(ours, theirs, strict=True))


def test_a_fit_imports_no_compiler() -> None:
    program = """
import sys
import torch
from ltcache.fit import LabelledRows, fit_head
from ltcache.heads import HeadContext
from ltcache.methods import method_by_name
rows = LabelledRows(torch.randn(40, 8), torch.arange(40) % 4)
context = HeadContext(8, 4, torch.bincount(rows.labels))
fit_head(method_by_name("ce"), rows, context, val=rows)
print(sorted(name for name in ("torch._dynamo", "sklearn", "pandas") if name in sys.modules))
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
