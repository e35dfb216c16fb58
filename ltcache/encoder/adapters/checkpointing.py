"""Activations that are computed again on the way back instead of kept."""

from __future__ import annotations

from functools import partial
from typing import Any

from open_clip.modified_resnet import Bottleneck
from torch import nn
from torch.utils.checkpoint import checkpoint


def set_checkpointing(model: Any, enable: bool = True) -> None:
    """Let the backward pass compute every block's activations again: less memory, more time, the
    same gradients.

    open_clip and timm do so for transformers and their own trunks; for CLIP's ResNets, which
    open_clip leaves as they are, it is done here.

    Args:
        model: an encoder's, in place. enable: False undoes it.
    """
    if hasattr(model, "set_grad_checkpointing"):
        model.set_grad_checkpointing(enable)
    blocks: list[nn.Module] = [m for m in model.visual.modules() if isinstance(m, Bottleneck)]
    for block in blocks:
        block.__dict__.pop("forward", None)
        if enable:  # of this instance alone; hooks run around it
            block.__dict__["forward"] = partial(checkpoint, block.forward, use_reentrant=False)
