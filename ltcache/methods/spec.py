"""What a method is made of: frozen records that turn into JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal

from ltcache.adjustments import ADJUSTMENTS, WEIGHT_TRANSFORMS
from ltcache.errors import FitError, UsageError
from ltcache.fusion import FUSIONS
from ltcache.heads import HEADS, TRANSFORMS, Head, HeadContext
from ltcache.losses import LOSSES
from ltcache.methods.settings import SettingValues, dotted, require_name
from ltcache.methods.stage import CatalogueField, MethodStage
from ltcache.objectives import OBJECTIVES
from ltcache.records import one_line
from ltcache.sampling import SAMPLERS

# What a method may ask for -> fields to look for in a cache, in order.
FIELDS: dict[str, tuple[str, ...]] = {
    "embedding": ("embedding",),
    "pooled": ("pooled",),
    "pooled_or_embedding": ("pooled", "embedding"),
    "embedding_or_pooled": ("embedding", "pooled"),
    "tokens": ("tokens",),
}


@dataclass(frozen=True)
class FeatureSpec:
    """Which features a method works on.

    Args:
        field: a key of ``FIELDS``; ``pooled_or_embedding`` takes pooled where the encoder has it,
            ``embedding_or_pooled`` where it has no space that texts share.
        view: crops to train on; every crop is a row.
        eval_view: crops to predict on; logits are averaged over crops.
        transform: see :class:`ltcache.heads.FeatureTransform`.
        text_rows: train on the text direction of each class as one more image of it.
    """

    field: str = "pooled_or_embedding"
    view: str = "center"
    eval_view: str = "center"
    transform: str = "none"
    text_rows: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (
            ("field", self.field, FIELDS),
            ("transform", self.transform, TRANSFORMS),
        ):
            if value not in known:
                raise UsageError(f"feature.{name}={value!r} is none of {', '.join(known)}")

    def resolve(self, available: Mapping[str, int]) -> str:
        """Return the field of a cache to use.

        Raises:
            FitError: the cache has none of them.
        """
        for name in FIELDS[self.field]:
            if name in available:
                return name
        remedy = "extract again with it, or override feature.field"
        if self.field == "embedding" and "pooled" in available:
            remedy = (
                "an image-only encoder has no space that texts share, so extract with a dual one, "
                "such as --model ViT-B-16 --pretrained openai; where the method does without "
                "texts, give -s feature.field=pooled"
            )
        raise FitError(
            f"the method needs the field {self.field!r}, the cache has {', '.join(available)}; "
            f"{remedy}"
        )


LEAST_STEPS = 96
"""Gradient steps that a schedule counted in epochs makes at least, however few rows there are.

It is what the experts' 12 epochs are on the 3,922 rows of Emoji-LT, on which they were chosen. With
12 steps instead (a few hundred rows) they fitted 46 to 52 % of separable rows, with 96 all of them.
"""


def epochs_to_make(epochs: int, min_steps: int, steps_per_epoch: int) -> int:
    """Return the passes that make at least ``min_steps`` steps, and at least ``epochs``."""
    return max(epochs, -(-min_steps // steps_per_epoch))


def written_optimisation(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return an optimisation for a record, without a ``min_steps`` of 0.

    Records of versions that had no such floor lack it, and are the same configuration.
    """
    return {name: value for name, value in plain.items() if (name, value) != ("min_steps", 0)}


def read_optimisation(written: Mapping[str, Any]) -> dict[str, Any]:
    """Return what :func:`written_optimisation` was given."""
    return {"min_steps": 0, **written}


@dataclass(frozen=True)
class Optimisation:
    """How parameters are moved; the learning rate falls to zero along a cosine.

    Args:
        optimiser: ``adamw``, ``sgd`` (Nesterov), or ``lbfgs``: all rows at once to convergence, for
            linear heads under cross entropy with an offset (:mod:`ltcache.fit.convex`).
        lr: first learning rate. weight_decay: on weights, never on vectors such as a bias; of
            ``lbfgs`` the factor of |W|^2 / 2 beside the mean loss, scikit-learn's 1 / (C N).
        momentum: of ``sgd``.
        batch: rows of a step; None: N / 32 to the next power of two below, within 32..2,048.
        epochs: passes over N rows; None: enough for about 1,500 steps, within 8..200. Of ``lbfgs``
            the most iterations; None: 500.
        min_steps: where ``epochs`` passes are fewer gradient steps than this, more passes are made;
            0 takes ``epochs`` at its word, as a setting ``optimisation.epochs=...`` does.
        precision: ``fp32``; ``bf16`` makes the two large products in bfloat16, with float32 loss
            and master weights.
        tolerance: of ``lbfgs``: the largest entry of the gradient at which it ends.
    """

    optimiser: Literal["adamw", "sgd", "lbfgs"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1e-2
    momentum: float = 0.9
    batch: int | None = None
    epochs: int | None = None
    min_steps: int = LEAST_STEPS
    precision: Literal["fp32", "bf16"] = "fp32"
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        if self.optimiser not in ("adamw", "sgd", "lbfgs"):
            known = "adamw, sgd, lbfgs"
            raise UsageError(f"optimisation.optimiser={self.optimiser!r} is none of {known}")
        if self.precision not in ("fp32", "bf16"):
            raise UsageError(f"optimisation.precision={self.precision!r} is none of fp32, bf16")
        for name in ("batch", "epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"optimisation.{name}={value} must be at least 1")
        if self.min_steps < 0:
            raise UsageError(f"optimisation.min_steps={self.min_steps} must be at least 0")
        if self.lr <= 0:
            raise UsageError(f"optimisation.lr={self.lr} must be positive")

    def batch_for(self, rows: int) -> int:
        """Return the batch size for N rows."""
        if self.batch is not None:
            return min(self.batch, rows)
        return min(rows, 2048, max(32, 1 << ((rows // 32).bit_length() - 1 if rows >= 32 else 0)))

    def steps_per_epoch(self, rows: int) -> int:
        """Return the number of gradient steps that one pass over N rows is."""
        return -(-rows // self.batch_for(rows))

    def epochs_for(self, rows: int) -> int:
        """Return the number of epochs for N rows."""
        steps = self.steps_per_epoch(rows)
        epochs = min(200, max(8, -(-1500 // steps))) if self.epochs is None else self.epochs
        return epochs_to_make(epochs, self.min_steps, steps)


@dataclass(frozen=True)
class Train(MethodStage):
    """A stage that trains a head by gradient steps.

    Args:
        head, loss, objective, sampler: names in their catalogues; the ``_options`` are their
            hyper-parameters where they are not the default.
        init: an initialisation of the head, or ``previous`` (the head of the stage before, which
            is carried on, or whose weights a head of another kind takes over); the first of
            several that the data allow is taken, separated by ``|``.
        partner: sampler of a second batch of rows beside each batch, for fusions that need one.
        fusion: names of fusions in the order in which they act; ``fusion_options`` are the
            hyper-parameters of all of them.
        lr_factors: beginning of a parameter's name -> factor on its learning rate; 0 freezes it.
        optimisation: see :class:`Optimisation`.
    """

    PARTS: ClassVar = {
        "head": CatalogueField(HEADS, "head_options"),
        "loss": CatalogueField(LOSSES, "loss_options"),
        "objective": CatalogueField(OBJECTIVES, "objective_options"),
        "fusion": CatalogueField(FUSIONS, "fusion_options", several=True),
        "sampler": CatalogueField(SAMPLERS),
        "partner": CatalogueField(SAMPLERS, optional=True),
    }
    trains: ClassVar = True

    head: str = "linear"
    head_options: Mapping[str, Any] = field(default_factory=dict)
    init: str = "random"
    loss: str = "cross_entropy"
    loss_options: Mapping[str, Any] = field(default_factory=dict)
    objective: str = "mean"
    objective_options: Mapping[str, Any] = field(default_factory=dict)
    sampler: str = "instance"
    partner: str | None = None
    fusion: tuple[str, ...] = ()
    fusion_options: Mapping[str, Any] = field(default_factory=dict)
    lr_factors: Mapping[str, float] = field(default_factory=dict)
    optimisation: Optimisation = field(default_factory=Optimisation)

    def may_start_from_prompts(self) -> bool:
        """See :meth:`MethodStage.may_start_from_prompts`."""
        return "text" in self.init.split("|")

    def begins_alike(self) -> list[Any]:
        """See :meth:`MethodStage.begins_alike`: head, initialisation and schedule."""
        how = self.optimisation
        schedule = (how.batch, how.epochs, how.min_steps)
        return [self.head, dict(self.head_options), self.init, schedule]

    def with_most_epochs(self, rows: int, most: int) -> Train:
        """See :meth:`MethodStage.with_most_epochs`."""
        epochs = min(most, self.optimisation.epochs_for(rows))
        return replace(self, optimisation=replace(self.optimisation, epochs=epochs, min_steps=0))

    def to_plain(self) -> dict[str, Any]:
        """See :meth:`MethodStage.to_plain`."""
        plain = super().to_plain()
        return {**plain, "optimisation": written_optimisation(plain["optimisation"])}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> MethodStage:
        """Read what :meth:`to_plain` wrote."""
        how = Optimisation(**read_optimisation(plain["optimisation"]))
        return super().from_plain({**plain, "optimisation": how})


@dataclass(frozen=True)
class Solve(MethodStage):
    """A stage that fits a training-free head in closed form.

    Args:
        head, head_options: as of :class:`Train`.
        choose: hyper-parameter of the head -> values to choose from on validation rows, by mean
            accuracy per class (ties: lower NLL, then the earlier combination).
    """

    PARTS: ClassVar = {"head": CatalogueField(HEADS, "head_options")}

    head: str
    head_options: Mapping[str, Any] = field(default_factory=dict)
    choose: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Transform(MethodStage):
    """A stage that maps the weights of the head before it to other weights.

    Args:
        transform: a name in the catalogue; ``options`` are its hyper-parameters.
        choose: see :class:`Solve`.
    """

    PARTS: ClassVar = {"transform": CatalogueField(WEIGHT_TRANSFORMS, "options")}

    transform: str
    options: Mapping[str, Any] = field(default_factory=dict)
    choose: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Adjust(MethodStage):
    """A stage that maps the logits of the head before it to other logits.

    Args:
        adjustment: a name in the catalogue; ``options`` are its hyper-parameters.
        choose: see :class:`Solve`.
    """

    PARTS: ClassVar = {"adjustment": CatalogueField(ADJUSTMENTS, "options")}

    adjustment: str
    options: Mapping[str, Any] = field(default_factory=dict)
    choose: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def head_kind(self) -> type[Head]:
        """See :meth:`MethodStage.head_kind`."""
        return ADJUSTMENTS[self.adjustment]

    def head_after(
        self, before: Head | None, choice: Mapping[str, Any], context: HeadContext
    ) -> Head | None:
        """See :meth:`MethodStage.head_after`: nothing to adjust is left as it is."""
        kind: Any = ADJUSTMENTS[self.adjustment]
        return None if before is None else kind(before, context, **{**self.options, **choice})


@dataclass(frozen=True)
class Estimate(MethodStage):
    """A stage that estimates a statistic of the training rows for the losses of later stages.

    Args:
        statistic: a name in the catalogue; ``options`` are its hyper-parameters.
    """

    statistic: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def needs_prompts(self) -> bool:
        """See :meth:`MethodStage.needs_prompts`: the drift is that from the class prompts."""
        return self.options.get("estimator") == "drift"

    def settings(self) -> SettingValues:
        """See :meth:`MethodStage.settings`; the catalogue of statistics is of a higher room."""
        return dotted(self.statistic, self.options)

    def field_of(self, first: str) -> str:
        """See :meth:`MethodStage.field_of`."""
        return "options"


STAGES: dict[str, type[MethodStage]] = {
    "train": Train,
    "solve": Solve,
    "transform": Transform,
    "adjust": Adjust,
    "estimate": Estimate,
}


@one_line
@dataclass(frozen=True)
class Method:
    """A named recipe.

    Args:
        name: how users call it.
        title: one line on what it is.
        feature: what it works on. stages: what is done, in order.
        reference: the publication.
        fidelity: ``exact`` (the published method, which needs no more than cached features),
            ``analogue`` (its mechanism, on features) or ``reconstruction`` (not fully published).
        differs: one sentence on what differs from the reference.
        equation: what is computed, where the losses and heads do not say it.
        mechanism: of an analogue or a reconstruction: what it keeps of the original.
        ablation: settings (see :func:`override`) that switch that mechanism off.
        same_as: a method that gives equal logits, and why nobody needs both.
    """

    name: str
    title: str
    feature: FeatureSpec
    stages: tuple[MethodStage, ...]
    reference: str
    fidelity: Literal["exact", "analogue", "reconstruction"]
    differs: str
    equation: str = ""
    mechanism: str = ""
    ablation: Mapping[str, Any] = field(default_factory=dict)
    same_as: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        names = {kind: name for name, kind in STAGES.items()}
        stages = [{"stage": names[type(s)], **s.to_plain()} for s in self.stages]
        return {**asdict(self), "stages": stages}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Method:
        """Read what :meth:`to_dict` wrote."""
        stages = tuple(_read_stage(entry) for entry in plain["stages"])
        feature = FeatureSpec(**plain["feature"])
        return cls(**{**plain, "feature": feature, "stages": stages})


def _read_stage(entry: Mapping[str, Any]) -> MethodStage:
    require_name("stage", entry["stage"], STAGES)
    return STAGES[entry["stage"]].from_plain({k: v for k, v in entry.items() if k != "stage"})
