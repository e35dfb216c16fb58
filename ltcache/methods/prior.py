"""Prior bookkeeping: which class prior do trained logits still carry, and what may be corrected.

The prior is written n**a: a = 1 as in the data, a = 0 balanced. A sampler sets a, a loss lowers
it, a later adjustment subtracts what is left. Correcting a balanced residue corrects twice: with a
class-aware sampler and balanced softmax that has cost a user 20 points.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ltcache.errors import FitError
from ltcache.fusion import FUSIONS
from ltcache.losses import LOSSES, Loss
from ltcache.methods.catalogue import METHODS
from ltcache.methods.spec import Train
from ltcache.objectives import OBJECTIVES
from ltcache.sampling import SAMPLERS


def counts_as_drawn(
    stage: Train, class_counts: Tensor, allow_double_correction: bool = False
) -> Tensor:
    """Return the class counts that a stage's loss is built from, (C,), float64.

    A loss that removes the prior gets the frequencies that the sampler draws, so that it removes
    what is left of it; every other loss gets the counts of the data. One that corrects it in part
    is warned of behind a sampler that balances, unless a method of the catalogue does just that.

    Raises:
        FitError: the sampler leaves a balanced prior and the loss would correct it again.
    """
    counts = class_counts.to(torch.float64)
    corrects = OBJECTIVES[stage.objective].corrects
    name = f"objective {stage.objective!r}"
    if corrects == "none":
        corrects, name = LOSSES[stage.loss].corrects, f"loss {stage.loss!r}"
    drawn = SAMPLERS[stage.sampler].exponent
    if corrects == "none" or drawn == 1:
        return counts
    if drawn == 0 and not (corrects == "partial" and _is_published(stage)):
        text = (
            f"the sampler {stage.sampler!r} already balances the classes, and the {name} would "
            "correct the prior a second time"
        )
        if corrects == "full" and not allow_double_correction:
            raise FitError(
                f"{text}; take sampler=instance or {_WITHOUT[name.split()[0]]}, or allow it with "
                "--allow-double-correction"
            )
        warnings.warn(text, stacklevel=2)
        return counts
    if corrects == "partial":
        return counts
    powers = torch.where(counts > 0, counts.clamp(min=1e-12) ** drawn, 0.0)
    return powers * (counts.sum() / powers.sum())


def _is_published(stage: Train) -> bool:
    """Whether a method of the catalogue has a stage with the same start, draws and loss."""
    trained = (s for m in METHODS.values() for s in m.stages if isinstance(s, Train))
    return any(_how_it_corrects(s) == _how_it_corrects(stage) for s in trained)


def _how_it_corrects(stage: Train) -> tuple[str, str, str, str]:
    return stage.init, stage.sampler, stage.loss, stage.objective


def residual_prior(stage: Train, loss: Loss) -> float | None:
    """Return the exponent a of the prior n**a that the stage's logits carry at the end; None: an
    objective, a fusion that mixes rows of two samplers, composites, whose second labels are of all
    classes equally often, or a soup of subsets leave what nobody can state."""
    corrects = OBJECTIVES[stage.objective].corrects
    fusions = [FUSIONS[name] for name in stage.fusion]
    if corrects == "full":
        return 0.0
    mixed = stage.composites > 0 or any(f.mixes_labels and f.needs_partner for f in fusions)
    if corrects == "partial" or mixed:
        return None
    left = loss.residual_prior(SAMPLERS[stage.sampler].exponent)
    return left if stage.soup == 0 or left == 0 else None


_WITHOUT = {"loss": "loss=cross_entropy", "objective": "objective=mean"}
