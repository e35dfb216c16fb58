"""The image-text loss of BALLAD and VL-LTR, with every image of a class as a positive."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def supervised_contrastive(
    image: Tensor,
    text: Tensor,
    labels: Tensor,
    logit_scale: Tensor | float,
    *,
    smoothing: float = 0.0,
    distillation: float = 0.0,
    teacher_logits: Tensor | None = None,
) -> Tensor:
    """Return the sum of the image-to-text and the text-to-image loss of a batch, a scalar.

    Each is the mean over rows i of -(1 / |P(i)|) sum_{p in P(i)} log softmax_p(s cos(x_i, t_p)),
    where P(i) are all rows with the label of row i, itself included, and the softmax runs over all
    N rows: a class that comes up several times in a batch counts as often in it. Where all labels
    differ this is twice open_clip's ClipLoss, which is the mean of both directions.

    VL-LTR smooths the targets, (1 - e) [j in P(i)] / |P(i)| + e / N, and mixes with weight b the
    cross entropy to the softmax of a teacher's logits, of the image over texts and of the text over
    images; it takes half of this sum.

    Source: the poster of BALLAD (Ma et al., 2021); VL-LTR (Tian et al., ECCV 2022). Computed in
    float32 at least, whatever autocast says: products near 100 have no digits to spare.

    Args:
        image, text: embeddings (N, D) of the images and of their classes' texts; any length.
        labels: (N,).
        logit_scale: s, the factor itself, not its logarithm.
        smoothing: e, 0..1. distillation: b, 0..1.
        teacher_logits: (N, N), of each image and each text; needed unless b is 0.
    """
    with torch.autocast(image.device.type, enabled=False):
        logits = logit_scale * unit_rows(image) @ unit_rows(text).T  # (N, N)
        same = (labels[:, None] == labels[None, :]).to(logits.dtype)
        share = same / same.sum(dim=1, keepdim=True)  # symmetric, as rows of a class share |P|
        both = F.log_softmax(logits, dim=1) + F.log_softmax(logits.T, dim=1)
        target = (1 - smoothing) * share + smoothing / len(labels)
        value = -(target * both).sum() / len(labels)
        if not distillation:
            return value
        assert teacher_logits is not None
        taught = F.cross_entropy(logits, teacher_logits.softmax(dim=1))
        taught = taught + F.cross_entropy(logits.T, teacher_logits.T.softmax(dim=1))
        return (1 - distillation) * value + distillation * taught


def unit_rows(rows: Tensor) -> Tensor:
    """Return rows (N, D) of length 1, in float32 at least."""
    return F.normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=1)
