"""H2T as the second stage of other methods (Li et al., Feature fusion from head to tail, AAAI
2024).

Each of the partners here exists with the classifier of its own and, as ``NAME-linear`` or
``NAME-cosine``, with the other one. ``NAME+h2t`` is the released form: fusion in the partner's
re-balancing second stage, or in one that follows where the partner has none; it carries the first
stage on with the partner's loss, and only the classifier is trained. Blocks of experts train along
with ``-s lr_factors.down=1 -s lr_factors.up=1`` (of ResLT ``branches`` and ``norm``, of BALLAD
``adapter``), and ``-s loss=cross_entropy -s objective=mean`` takes the partner's loss away.

Every other method that ends in a training is made a partner when ``NAME+h2t`` is asked for
(:data:`FUSED_FORMS`). ``NAME+h2t-third`` fuses in a third stage, by cross entropy, after a second
one without fusion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ltcache.errors import UsageError
from ltcache.losses import LOSSES
from ltcache.methods.families.decoupled import dr, gcl, mislas
from ltcache.methods.families.experts import reslt, ride
from ltcache.methods.families.shared import SECOND
from ltcache.methods.families.texts import ballad
from ltcache.methods.optimisation import Optimisation
from ltcache.methods.spec import Method, Train
from ltcache.objectives import OBJECTIVES, Objective

_PARTNERS: dict[str, tuple[Callable[[str], Method], tuple[str, ...], str]] = {
    "dr": (
        dr,
        ("linear", "cosine"),
        "H2T's released first stage mixes images up, which is left out.",
    ),
    "mislas": (
        mislas,
        ("linear", "cosine"),
        "The fused stage keeps label-aware smoothing.",
    ),
    "gcl": (
        gcl,
        ("cosine", "linear"),
        "The fused stage keeps the loss of GCL's second one.",
    ),
    "ride": (
        ride,
        ("cosine", "linear"),
        "The fused stage keeps RIDE's objective, without late class weights, since it draws "
        "classes equally often.",
    ),
    "reslt": (
        reslt,
        ("linear", "cosine"),
        "The fused stage keeps ResLT's objective, as H2T's configuration of it does.",
    ),
    "ballad": (
        ballad,
        ("text", "linear", "cosine"),
        "H2T's released code has no such partner; where the class texts classify, the fused stage "
        "trains the adapter, which is all there is.",
    ),
}
"""Name -> its recipe by classifier, the classifiers (the first one is the method's own), and how
the fused stage differs from the released one."""

# Head -> beginnings of the names of the parameters before its classifier.
_BLOCKS = {
    "experts": ("down", "up"),
    "nested_experts": ("down", "up"),
    "branches": ("down", "up"),
    "reslt": ("branches", "norm"),
    "ballad_adapter": ("adapter",),
    "sg_attention": ("query", "key", "value", "output", "gamma"),
    "visual_attention": ("near", "far", "pointwise"),
}
_KEPT = frozenset([("gcl", "mean"), ("ldam", "ride")])
"""Losses with objectives that the fused stage keeps although they correct the prior in part."""

_UNWEIGHTED: dict[str, Mapping[str, Any]] = {"ldam": {"beta": 0.0}}
"""Loss -> options without class weights, which classes that are drawn equally often do not need."""

_FUSED: Mapping[str, Any] = {
    "init": "previous",
    "sampler": "class_balanced",
    "partner": "instance",
    "fusion": ("h2t",),
    "fusion_options": {"ratio": 0.25},
    "composites": 0.0,
}


def with_h2t(method: Method, differs: str = "H2T was not published with this partner.") -> Method:
    """Return a method with head-to-tail fusion in its second stage, as released.

    Args:
        differs: one sentence on how that stage differs from the released one.

    Raises:
        UsageError: the method has no training that a fused stage could carry on.
    """
    last = _last(method)
    rebalances = len(method.stages) > 1 and last.init == "previous"
    before = method.stages[:-1] if rebalances else method.stages
    fused = _drawn_equally(replace(last, **_FUSED) if rebalances else _carried_on(last))
    if (fused.loss, fused.objective) != (last.loss, last.objective):
        differs += " The fused stage draws classes equally often and takes plain cross entropy."
    return replace(
        _as_fusion(method),
        name=f"{method.name}+h2t",
        title=f"{method.name}, with head-to-tail fusion in "
        + ("its second stage" if len(before) == 1 else "a last stage of its own"),
        stages=(*before, fused),
        differs=f"{method.differs} {differs}",
    )


def with_third_stage(method: Method) -> Method:
    """Return a method of two stages with head-to-tail fusion in a third one, by cross entropy.

    Raises:
        UsageError: the method has not two stages of which the last one is a training.
    """
    last = _last(method)
    if len(method.stages) != 2 or last.init != "previous":
        raise UsageError(
            f"{method.name} has no second stage that carries the first one on, after which a third "
            f"one could fuse: take {method.name}+h2t"
        )
    fused = Train(head=last.head, head_options=last.head_options, optimisation=SECOND, **_FUSED)
    return replace(
        _as_fusion(method),
        name=f"{method.name}+h2t-third",
        title=f"{method.name}, then head-to-tail fusion as a third stage",
        stages=(*method.stages, fused),
        fidelity="analogue",
        differs=f"{method.differs} A third stage fuses, by cross entropy, where the released code "
        "fuses in the second one.",
    )


FUSED_FORMS: Mapping[str, Callable[[Method], Method]] = {
    "h2t": with_h2t,
    "h2t-third": with_third_stage,
}
"""What stands behind ``METHOD+`` -> how that form of the method is made."""


def _last(method: Method) -> Train:
    """Return the stage that fusion carries on.

    Raises:
        UsageError: the method ends in no training, or in one that fuses already.
    """
    last = method.stages[-1]
    if not isinstance(last, Train):
        last_kind = type(last).__name__.lower()
        raise UsageError(
            f"{method.name} has no form with fusion: its last stage is {last_kind}, and fusion "
            "carries on the training of a classifier; take a method that ends in one, such as dr"
        )
    if "h2t" in last.fusion:
        raise UsageError(f"{method.name} fuses by H2T already")
    return last


def _as_fusion(method: Method) -> Method:
    """Return a method whose mechanism is the fusion."""
    return replace(
        method,
        reference=f"Li et al., Feature fusion from head to tail, AAAI 2024; {method.reference}",
        mechanism="channels of class-balanced rows replaced by those of instance-sampled rows",
        ablation={"fusion": "none", "partner": "none"},
    )


def _carried_on(stage: Train) -> Train:
    """Return the fused stage that follows a method without a re-balancing stage of its own."""
    alone = stage.head_options.get("classifier") == "text"  # a classifier that nobody trains
    frozen: Mapping[str, float] = {} if alone else dict.fromkeys(_BLOCKS.get(stage.head, ()), 0.0)
    if OBJECTIVES[stage.objective].begin is not Objective.begin:  # made for a start of its own
        stage = _by_cross_entropy(stage)
    return replace(
        stage,
        loss_options={**stage.loss_options, **_UNWEIGHTED.get(stage.loss, {})},
        lr_factors={**stage.lr_factors, **frozen},
        optimisation=_as_long_as(stage.optimisation),
        **_FUSED,
    )


def _drawn_equally(stage: Train) -> Train:
    """Return the stage, by cross entropy if its loss or objective corrects the prior itself: the
    fused stage draws classes equally often, and would correct it a second time."""
    corrects = {LOSSES[stage.loss].corrects, OBJECTIVES[stage.objective].corrects}
    keeps = corrects == {"none"} or (stage.loss, stage.objective) in _KEPT
    return stage if keeps else _by_cross_entropy(stage)


def _by_cross_entropy(stage: Train) -> Train:
    plain = Train()
    return replace(
        stage,
        loss=plain.loss,
        loss_options={},
        objective=plain.objective,
        objective_options={},
    )


def _as_long_as(before: Optimisation) -> Optimisation:
    """Return the schedule of the fusion's stage: of experts' large batches as few as before."""
    if before.batch is None:
        return SECOND
    return replace(SECOND, batch=before.batch, epochs=min(before.epochs or 20, 20))


def _variants() -> tuple[Method, ...]:
    found: list[Method] = []
    for name, (recipe, classifiers, differs) in _PARTNERS.items():
        for classifier in classifiers:
            method = recipe(classifier)
            if classifier != classifiers[0]:
                title = f"{method.title} ({classifier} classifier)"
                method = replace(method, name=f"{name}-{classifier}", title=title)
                found.append(method)
            found.append(with_h2t(method, differs))
    return tuple(found)


METHODS = _variants()
