"""Feature specifications and schedules that several methods share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ltcache.methods.optimisation import Optimisation
from ltcache.methods.spec import FeatureSpec, Method, Train

# Chosen on the validation split of Emoji-LT with features of EfficientNet-lite0 (56 classes, 3,922
# rows, two seeds, never looking at its test split) over lr 1e-4..1e-2, decay 0.01, 0.1 and 1, and
# standardised, centred and raw channels. All are flat: mean per class moves by less than one point
# from lr 1e-3 to 3e-3 and over all decays. Standardised channels cost one point against raw ones,
# but make the learning rate independent of an encoder's scale.
LINEAR = Optimisation(lr=1e-3, weight_decay=0.1)
COSINE = Optimisation(lr=3e-3, weight_decay=0.0)
SECOND = Optimisation(lr=3e-4, weight_decay=0.1, epochs=20)
"""A stage that carries a trained head on: H2T, too, takes a fifth of its first learning rate."""

STANDARD = FeatureSpec(field="pooled_or_embedding", transform="standardize")
UNIT = FeatureSpec(field="pooled_or_embedding", transform="l2")
RAW = FeatureSpec(field="pooled_or_embedding", transform="none")
JOINT = FeatureSpec(field="embedding", transform="none")
JOINT_UNIT = FeatureSpec(field="embedding", transform="l2")

FROZEN = (
    "The encoder is frozen, channels are standardised, which a linear head can undo, and AdamW "
    "stands for SGD."
)
FROZEN_COSINE = (
    "The encoder is frozen, channels are standardised, which changes the angles that a cosine head "
    "compares, and AdamW stands for SGD."
)
FROZEN_LENGTHS = (
    "The encoder is frozen, channels are standardised, which changes the lengths of the class "
    "weights, and AdamW stands for SGD."
)

CE = Method(
    name="ce",
    title="linear head, cross entropy, every image equally often",
    feature=STANDARD,
    stages=(Train(optimisation=LINEAR),),
    reference="Kang et al., Decoupling representation and classifier, ICLR 2020 (stage 1)",
    fidelity="exact",
    # word for word what it was, since the text is part of what finished runs of ce are known by
    differs="The encoder is frozen, and channels are standardised, which a linear head can undo.",
)


def first(classifier: str = "linear", **changes: Any) -> Train:
    """Return a first stage: a linear or a cosine head from random weights, cross entropy."""
    if classifier == "cosine":
        changes = {"head": "cosine", "optimisation": COSINE, **changes}
    return replace(CE.stages[0], **changes)  # type: ignore[return-value]
