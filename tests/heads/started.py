"""Small data, and any head of the catalogue made ready the way a method would."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ltcache.heads import HEADS, Head, HeadContext, LinearHead

CLASSES, DIM, ROWS = 5, 6, 20
TOKENS = ("visual_attention",)  # heads whose rows are maps of 3 x 3 tokens


def make_context(pooled: bool = False, order: Tensor | None = None) -> HeadContext:
    """Return a context; ``order`` re-numbers its classes."""
    generator = Generator().manual_seed(1)
    joint = 4 if pooled else DIM
    text = F.normalize(torch.randn(CLASSES, joint, generator=generator), dim=1)
    order = torch.arange(CLASSES) if order is None else order
    return HeadContext(
        dim=DIM,
        num_classes=CLASSES,
        class_counts=torch.tensor([9, 5, 3, 2, 1])[order],
        text_features=text[order],
        projection=torch.randn(DIM, joint, generator=generator) if pooled else None,
        logit_scale=20.0,
    )


def make_rows(name: str = "linear", dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Return features, (20, 6) or (20, 9, 6) for a head that takes tokens, and labels (20,)."""
    generator = Generator().manual_seed(2)
    shape = (ROWS, 9, DIM) if name in TOKENS else (ROWS, DIM)
    labels = torch.tensor([0] * 9 + [1] * 5 + [2] * 3 + [3] * 2 + [4])
    return torch.randn(shape, generator=generator).to(dtype), labels


def started(
    name: str,
    context: HeadContext | None = None,
    rows: tuple[Tensor, Tensor] | None = None,
    how: str | None = None,
    **options: Any,
) -> Head:
    """Return a head in evaluation mode: fitted, adopted from a linear head, or initialised."""
    context = context or make_context()
    features, labels = rows or make_rows(name)
    head = HEADS[name](context, **options)
    if head.inits == ("previous",):
        previous = LinearHead(context)
        previous.initialise("class_mean", features, labels, Generator(), context)
        head.adopt(previous)
    elif not head.inits:
        head.fit(features, labels, None, context)
    else:
        how = how or ("class_mean" if "class_mean" in head.inits else head.inits[0])
        head.initialise(how, features, labels, Generator().manual_seed(0), context)
    return head.eval()


def disturbed(head: Head, amount: float = 0.3) -> Head:
    """Move all trainable parameters away from special values such as zero."""
    generator = Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += amount * torch.randn(parameter.shape, generator=generator)
    return head
