"""Weight-space ensembling with the zero-shot classifier (Wortsman et al., Robust fine-tuning of
zero-shot models, CVPR 2022), for the classifier alone: the encoder is frozen."""

from __future__ import annotations

import copy

import torch

from ltcache.errors import FitError
from ltcache.heads import CosineHead, Head, HeadContext


def weight_ensemble(head: Head, context: HeadContext | None = None, *, alpha: float = 0.5) -> Head:
    """Return a copy of a cosine head with (1 - alpha) T_c + alpha W_c, T_c the class texts.

    Both are directions of unit length where the head has just started from texts; a trained W is
    not normalised before it is mixed, as WiSE-FT mixes parameters.

    Args:
        head: ``cosine``. context: what it was built from, with class texts.
        alpha: 0 is the text classifier, 1 leaves the head as it is.

    Raises:
        FitError: another head, whose weights are not directions, or no class texts.
    """
    if not isinstance(head, CosineHead) or context is None:
        raise FitError(f"weights of a {type(head).__name__} cannot be mixed with class texts")
    result = copy.deepcopy(head)
    with torch.no_grad():
        texts = context.text_directions().to(result.weight)
        result.weight.copy_((1 - alpha) * texts + alpha * result.weight)
    return result
