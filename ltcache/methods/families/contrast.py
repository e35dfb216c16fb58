"""Class centres and samples in one softmax: parametric contrastive learning on cached crops."""

from __future__ import annotations

from dataclasses import replace

from ltcache.methods.families.shared import CE, STANDARD, first
from ltcache.methods.spec import Method, Optimisation

_PAIRS = Optimisation(lr=1e-3, weight_decay=0.1, batch=128)


def _contrastive(objective: str, title: str, reference: str, differs: str) -> Method:
    """Return a linear head on pairs of random crops."""
    return replace(
        CE,
        name=objective,
        title=title,
        feature=replace(STANDARD, view="rrc|rrc:2"),
        stages=(first(objective=objective, partner="same_image", optimisation=_PAIRS),),
        reference=reference,
        fidelity="analogue",
        differs=f"Two cached crops of a frozen encoder stand for the two augmented views that "
        f"train it, the projection is 256 wide inside, and the queue begins empty{differs}.",
        mechanism="rows of the batch and of a queue that compete with the class centres",
        ablation={"objective.alpha": 0.0, "objective.gamma": 0.0},
    )


METHODS = (
    _contrastive(
        "gpaco",
        "balanced softmax in which other rows of the class count beside its centre",
        "Cui et al., Generalized parametric contrastive learning (GPaCo), TPAMI 2023",
        "",
    ),
    _contrastive(
        "paco",
        "as gpaco, with keys from a momentum copy of the projection",
        "Cui et al., Parametric contrastive learning (PaCo), ICCV 2021",
        "; the momentum copy is the projection's alone",
    ),
)
