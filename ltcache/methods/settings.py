"""The settings that a method has: what its stages are made of, and the hyper-parameters of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ltcache.adjustments import ADJUSTMENTS, WEIGHT_TRANSFORMS
from ltcache.fusion import FUSIONS
from ltcache.heads import HEADS, keyword_arguments
from ltcache.losses import LOSSES
from ltcache.methods.spec import Adjust, Method, Solve, Stage, Train, Transform
from ltcache.objectives import OBJECTIVES
from ltcache.sampling import SAMPLERS

SMOOTH = "smooth_prior"
"""A setting that reaches whatever takes a class prior, in all stages."""


@dataclass(frozen=True)
class CatalogueField:
    """A field of a stage that names something in a catalogue.

    Args:
        catalogue: name -> class. options: the stage's field of its hyper-parameters, or None.
    """

    catalogue: Mapping[str, Any]
    options: str | None = None


PARTS: Mapping[type[Stage], Mapping[str, CatalogueField]] = {
    Train: {
        "head": CatalogueField(HEADS, "head_options"),
        "loss": CatalogueField(LOSSES, "loss_options"),
        "objective": CatalogueField(OBJECTIVES, "objective_options"),
        "fusion": CatalogueField(FUSIONS, "fusion_options"),
        "sampler": CatalogueField(SAMPLERS),
        "partner": CatalogueField(SAMPLERS),
    },
    Solve: {"head": CatalogueField(HEADS, "head_options")},
    Transform: {"transform": CatalogueField(WEIGHT_TRANSFORMS, "options")},
    Adjust: {"adjustment": CatalogueField(ADJUSTMENTS, "options")},
}


def hyper_parameters(kind: Callable[..., Any]) -> dict[str, Any]:
    """Return name -> default of the keyword-only arguments of a class that a user may set."""
    given = {"residual", *getattr(kind, "needs", ())}  # by the stages before
    return {k: v for k, v in keyword_arguments(kind).items() if k not in given}


def known_overrides(method: Method) -> dict[str, Any]:
    """Return every bare key that :func:`override` takes for a method, with its present value."""
    known = {f"feature.{key}": value for key, value in asdict(method.feature).items()}
    for stage in method.stages:
        known |= settings(stage)
    smooth = [settings(stage)[key] for stage in method.stages for key in smoothing_settings(stage)]
    return {**known, SMOOTH: all(smooth)} if smooth else known


def settings(stage: Stage) -> dict[str, Any]:
    """Return every setting of a stage with its present value."""
    found: dict[str, Any] = {}
    for name, part in PARTS.get(type(stage), {}).items():
        found[name] = getattr(stage, name)
        if part.options is not None:
            found |= {f"{name}.{k}": v for k, v in options_of(stage, name, part).items()}
    if isinstance(stage, Train):
        found["init"] = stage.init
        found |= {f"lr_factors.{k}": v for k, v in stage.lr_factors.items()}
        found |= {f"optimisation.{k}": v for k, v in asdict(stage.optimisation).items()}
    elif not isinstance(stage, (Solve, Transform, Adjust)):
        found |= {f"{stage.statistic}.{k}": v for k, v in stage.options.items()}
    if isinstance(stage, (Solve, Transform, Adjust)):
        ((name, part),) = PARTS[type(stage)].items()
        found |= {f"choose.{k}": stage.choose.get(k, ()) for k in options_of(stage, name, part)}
    return found


def options_of(stage: Stage, name: str, part: CatalogueField) -> dict[str, Any]:
    """Return the hyper-parameters of a part, defaults written out."""
    chosen = getattr(stage, name)
    kinds = chosen if isinstance(chosen, tuple) else (chosen,)
    defaults: dict[str, Any] = {}
    for kind in kinds:
        defaults |= hyper_parameters(part.catalogue[kind])
    return defaults | dict(getattr(stage, part.options or ""))


def smoothing_settings(stage: Stage) -> list[str]:
    """Return the settings of a stage that smooth a class prior."""
    parts = PARTS.get(type(stage), {})
    return [key for part in parts if (key := f"{part}.{SMOOTH}") in settings(stage)]
