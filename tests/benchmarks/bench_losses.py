"""One training step under each loss with a closed form, against cross entropy.

    python -m tests.benchmarks.bench_losses [--classes 8142] [--batch 512] [--dim 512] [--threads 1]
        [--repeats 15] [--clock wall|cpu] [--device cpu|cuda]

Situation: iNaturalist 2018's number of classes and a batch of 512, where the logits no longer fit
a cache. A step is what a fit does: logits = X W^T, the loss with its gradient in the same buffer,
and gradient = dZ^T X. All losses run in turn; ``step`` is the median over rounds of its step's time
over that of cross entropy, ``loss`` the same without the two products. Two usual forms of static
seesaw go through autograd beside ours: ``table`` gathers rows of a (C, C) table of log factors,
``factors`` divides counts per batch as mmdetection does. Ends with status 1 if a step under
seesaw_static takes more than 1.1 times as long as one under cross entropy.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from ltcache.losses import LOSSES, Loss
from tests.benchmarks.bench_fit import long_tail
from tests.benchmarks.timing import CLOCKS, Ratio, compare

LIMIT = 1.1
P = 0.7


class Step:
    """A batch with its buffers, and the steps that are timed on it."""

    def __init__(self, classes: int, batch: int, dim: int, device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        drawn = long_tail(60 * classes, classes)
        self.counts = torch.bincount(drawn, minlength=classes)
        picked = torch.randint(0, len(drawn), (batch,), generator=generator)
        self.labels = drawn[picked].to(device)
        self.rows = torch.randn(batch, dim, generator=generator).to(device)
        self.weight = (0.02 * torch.randn(classes, dim, generator=generator)).to(device)
        self.weights = torch.full((batch,), 1 / batch, device=device)
        self.logits = torch.empty(batch, classes, device=device)
        self.gradient = torch.empty_like(self.weight)

    def closed(self, loss: Loss, products: bool) -> None:
        """Make a step by the closed form; without products on the logits as they are."""
        if products:
            torch.mm(self.rows, self.weight.T, out=self.logits)
        loss.gradient(self.logits, self.labels, self.weights)  # type: ignore[operator]
        if products:
            torch.mm(self.logits.T, self.rows, out=self.gradient)

    def autograd(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Make a step by autograd."""
        torch.mm(self.rows, self.weight.T, out=self.logits)
        logits = self.logits.detach().requires_grad_()
        (loss(logits, self.labels) @ self.weights).backward()
        assert logits.grad is not None
        torch.mm(logits.grad.T, self.rows, out=self.gradient)


def table_form(counts: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Return seesaw with a (C, C) table of log factors."""
    log = P * counts.log()
    table = (log[None, :] - log[:, None]).clamp(max=0)
    return lambda z, y: F.cross_entropy(z + table[y], y, reduction="none")


def factor_form(counts: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Return seesaw with all factors made anew from ratios of counts, as online counts force it."""

    def loss(z: Tensor, y: Tensor) -> Tensor:
        ratio = counts[None, :] / counts[:, None]
        rarer = (ratio < 1).float()
        factor = (ratio.pow(P) * rarer + (1 - rarer))[y]
        others = 1 - F.one_hot(y, len(counts))
        return F.cross_entropy(z + factor.log() * others, y, reduction="none")

    return loss


def build(name: str, counts: Tensor, device: str) -> Loss:
    """Build a loss with zeros for what an earlier stage would estimate."""
    kind = LOSSES[name]
    return kind(counts, **{key: torch.zeros(len(counts)) for key in kind.needs}).to(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option, value in (("classes", 8142), ("batch", 512), ("dim", 512)):
        parser.add_argument(f"--{option}", type=int, default=value)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    step = Step(options.classes, options.batch, options.dim, options.device)
    losses = {name: build(name, step.counts, options.device) for name in LOSSES}
    closed = {name: loss for name, loss in losses.items() if hasattr(loss, "gradient")}
    counts = step.counts.float().to(options.device)
    whole = {name: partial(step.closed, loss, True) for name, loss in closed.items()}
    peers = {
        "cross entropy, autograd": partial(step.autograd, losses["cross_entropy"]),
        "static seesaw, autograd": partial(step.autograd, losses["seesaw_static"]),
        "static seesaw, table": partial(step.autograd, table_form(counts)),
        "static seesaw, factors": partial(step.autograd, factor_form(counts)),
    }
    alone = {name: partial(step.closed, loss, False) for name, loss in closed.items()}
    steps = compare(whole | peers, options.repeats, options.clock)
    parts = compare(alone, options.repeats, options.clock)
    print(f"C {options.classes}, batch {options.batch}, D {options.dim}, {options.device}")
    print(f"{'':<32}{'ms':>8}{'step':>22}{'loss':>22}")
    for name, times in steps.items():
        ratio = Ratio.of(times, steps["cross_entropy"])
        own = Ratio.of(parts[name], parts["cross_entropy"]) if name in parts else ""
        print(f"{name:<32}{1000 * sorted(times)[len(times) // 2]:>8.1f}{ratio!s:>22}{own!s:>22}")
    found = Ratio.of(steps["seesaw_static"], steps["cross_entropy"]).median
    if found > LIMIT:
        sys.exit(f"seesaw_static: {found:.2f} times cross entropy's step, more than {LIMIT}")


if __name__ == "__main__":
    main()
