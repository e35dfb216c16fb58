"""H2T as a further stage of other methods (Li et al., Feature fusion from head to tail, AAAI 2024).

Each of its partners exists with the classifier of its own and, as ``NAME-linear`` or
``NAME-cosine``, with the other one; ``NAME+h2t`` is the same stages and one more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ltcache.methods.families.decoupled import dr, gcl, mislas
from ltcache.methods.families.experts import reslt, ride
from ltcache.methods.families.shared import SECOND
from ltcache.methods.families.texts import ballad
from ltcache.methods.optimisation import Optimisation
from ltcache.methods.spec import Method, Train

# Name -> its recipe by classifier, the classifiers; the first one is the method's own.
_PARTNERS: dict[str, tuple[Callable[[str], Method], tuple[str, ...]]] = {
    "dr": (dr, ("linear", "cosine")),
    "mislas": (mislas, ("linear", "cosine")),
    "gcl": (gcl, ("cosine", "linear")),
    "ride": (ride, ("cosine", "linear")),
    "reslt": (reslt, ("linear", "cosine")),
    "ballad": (ballad, ("text", "linear", "cosine")),
}


def with_h2t(method: Method) -> Method:
    """Return a method with head-to-tail fusion as one more stage."""
    last = method.stages[-1]
    if not isinstance(last, Train):
        raise TypeError(f"{method.name} ends in no training: H2T has nothing to carry on")
    fused = Train(
        head=last.head,
        head_options=last.head_options,
        init="previous",
        sampler="class_balanced",
        partner="instance",
        fusion=("h2t",),
        fusion_options={"ratio": 0.25},
        optimisation=_as_long_as(last.optimisation),
    )
    return replace(
        method,
        name=f"{method.name}+h2t",
        title=f"{method.name}, then head-to-tail fusion",
        stages=(*method.stages, fused),
        reference=f"Li et al., Feature fusion from head to tail, AAAI 2024; {method.reference}",
        fidelity=method.fidelity,
        mechanism="channels of class-balanced rows replaced by those of instance-sampled rows",
        ablation={"fusion": "none", "partner": "none"},
    )


def _as_long_as(before: Optimisation) -> Optimisation:
    """Return the schedule of the fusion's stage: of experts' large batches as few as before."""
    if before.batch is None:
        return SECOND
    return replace(SECOND, batch=before.batch, epochs=min(before.epochs or 20, 20))


def _variants() -> tuple[Method, ...]:
    found: list[Method] = []
    for name, (recipe, classifiers) in _PARTNERS.items():
        for classifier in classifiers:
            method = recipe(classifier)
            if classifier != classifiers[0]:
                title = f"{method.title} ({classifier} classifier)"
                method = replace(method, name=f"{name}-{classifier}", title=title)
                found.append(method)
            found.append(with_h2t(method))
    return tuple(found)


METHODS = _variants()
