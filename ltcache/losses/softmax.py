"""Softmax cross entropy and its gradient in one buffer: no autograd, no second (N, C) tensor."""

from __future__ import annotations

import torch
from torch import Tensor

_IN_CACHE = 1 << 17  # elements of a block of rows that stays in a processor's second-level cache


def rows_in_cache(logits: Tensor) -> int:
    """Return how many rows of logits (N, C) several passes had best go over at a time."""
    if logits.device.type != "cpu":
        return max(1, len(logits))
    return max(1, _IN_CACHE // logits.shape[1])


@torch.no_grad()
def softmax_residual_(logits: Tensor, labels: Tensor) -> Tensor:
    """Return CE(logits, labels), (N,), and overwrite the logits with softmax(z) - onehot(labels).

    The log of the sum comes from the largest probability (at least 1 / C, so it never underflows),
    which saves a pass over the exponentials: torch.logsumexp alone costs more than all of this.

    Args:
        logits: (N, C), overwritten. labels: (N,).
    """
    rows = torch.arange(len(labels), device=logits.device)
    own = logits[rows, labels]  # (N,)
    top = logits.amax(dim=1)  # (N,)
    torch.softmax(logits, dim=1, out=logits)
    losses = top - logits.amax(dim=1).log() - own
    logits[rows, labels] -= 1
    return losses


@torch.no_grad()
def offset_cross_entropy_(
    logits: Tensor, labels: Tensor, weights: Tensor, offset: Tensor | None = None
) -> Tensor:
    """Return CE(logits + offset, labels), (N,), and overwrite the logits with its gradient.

    The gradient is that of the weighted sum: weights[:, None] * (softmax(z) - onehot(labels)).

    Args:
        logits: (N, C), overwritten. labels: (N,). weights: (N,). offset: (C,) or None.
    """
    if offset is not None:
        logits += offset
    losses = softmax_residual_(logits, labels)
    logits *= weights.to(logits.dtype)[:, None]
    return losses
