"""CMO: rare images pasted onto frequent ones, as composites that the encoder has seen."""

from __future__ import annotations

from dataclasses import replace

from ltcache.methods.families.experts import ride
from ltcache.methods.families.shared import CE, first
from ltcache.methods.spec import Method, Train

_VIEW = "cmo:2"
_SHARE = 0.5  # of the batches


def _with_composites(method: Method, name: str, title: str) -> Method:
    """Return a method of one stage with half of its batches made of composites."""
    (stage,) = method.stages
    assert isinstance(stage, Train)
    return replace(
        method,
        name=name,
        title=title,
        feature=replace(method.feature, composites=_VIEW),
        stages=(replace(stage, composites=_SHARE),),
        reference="Park et al., The majority can help the minority: Context-rich minority "
        "oversampling for long-tailed classification (CMO), CVPR 2022",
        fidelity="analogue",
        differs="A frozen encoder has seen two fixed composites of each image, of centre crops and "
        "each with a box of its own; the original makes new ones of random crops in every batch, "
        "with one box, and trains the encoder on them. Few epochs have shorter margins without "
        "composites.",
        mechanism="rare foregrounds pasted onto frequent contexts",
        ablation={"composites": 0.0},
        same_as="",
    )


METHODS = (
    _with_composites(CE, "ce+cmo", "linear head, cross entropy, half of the batches composites"),
    _with_composites(
        replace(CE, stages=(first(loss="balanced_softmax"),)),
        "bsce+cmo",
        "linear head, balanced softmax, half of the batches composites",
    ),
    _with_composites(
        ride("cosine"), "ride+cmo", "three experts pushed apart, half of the batches composites"
    ),
)
