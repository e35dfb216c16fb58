"""tau-normalisation (Kang et al., Decoupling representation and classifier, ICLR 2020)."""

from __future__ import annotations

import copy

import torch

from ltcache.errors import FitError
from ltcache.heads import Head, HeadContext, LinearHead


def tau_norm(head: Head, context: HeadContext | None = None, *, tau: float = 1.0) -> Head:
    """Return a copy of a linear head with W_c / |W_c|^tau and no bias.

    Args:
        head: ``linear``. context: not used.
        tau: 0 leaves W as it is, 1 makes all classes equally long.

    Raises:
        FitError: another head: a cosine has no lengths, and others no single W.
    """
    if type(head) is not LinearHead:
        raise FitError(f"tau-normalisation is of a linear head, not of a {type(head).__name__}")
    result = copy.deepcopy(head)
    with torch.no_grad():
        lengths = result.weight.norm(dim=1, keepdim=True).clamp(min=1e-12)
        result.weight.div_(lengths.pow(tau))
        if result.bias_vector is not None:
            result.bias_vector.zero_()
    return result
