"""What a method is made of: frozen records that turn into JSON and back."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal

from ltcache.adjustments import ADJUSTMENTS, WEIGHT_TRANSFORMS
from ltcache.errors import FitError, UsageError
from ltcache.fusion import FUSIONS
from ltcache.heads import HEADS, TRANSFORMS, Head, HeadContext
from ltcache.images import View, is_composite
from ltcache.losses import LOSSES
from ltcache.methods.optimisation import Optimisation, read_optimisation, written_optimisation
from ltcache.methods.settings import SettingValues, dotted, require_name
from ltcache.methods.stage import CatalogueField, MethodStage
from ltcache.objectives import OBJECTIVES
from ltcache.records import one_line
from ltcache.sampling import PAIRINGS, SAMPLERS

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
        view: crops to train on; every crop is a row. The first of several that the cache has,
            separated by ``|``; ``rrc`` is the view of most random crops that it has.
        eval_view: crops to predict on; logits are averaged over crops.
        transform: see :class:`ltcache.heads.FeatureTransform`.
        text_rows: train on the text direction of each class as one more image of it.
        text_share: of ``text_rows``: the share of a class's rows that is its text, which is
            repeated for it; 0: one row.
        composites: the view of composites, such as ``cmo:2``, that stages with ``composites``
            train on; ``none``: there are none.
    """

    field: str = "pooled_or_embedding"
    view: str = "center"
    eval_view: str = "center"
    transform: str = "none"
    text_rows: bool = False
    text_share: float = 0.0
    composites: str = "none"

    def __post_init__(self) -> None:
        if not 0 <= self.text_share < 1:
            raise UsageError(f"feature.text_share={self.text_share} must lie in 0 <= share < 1")
        for name in ("view", "eval_view"):
            if is_composite(getattr(self, name)):
                raise UsageError(
                    f"feature.{name}={getattr(self, name)!r} is a view of composites, which have "
                    "two labels: name it as feature.composites, with composites=0.5"
                )
        if self.composites != "none" and not View(self.composites).composite:
            raise UsageError(
                f"feature.composites={self.composites!r} is no view of composites: take cmo:K, "
                "such as cmo:2, or none"
            )
        for name, value, known in (
            ("field", self.field, FIELDS),
            ("transform", self.transform, TRANSFORMS),
        ):
            if value not in known:
                raise UsageError(f"feature.{name}={value!r} is none of {', '.join(known)}")

    def on_views(self, views: Collection[str]) -> FeatureSpec:
        """Return the spec with that of its alternatives which a cache of these views has, the last
        one where it has none of them."""
        crops = [int(name[4:]) for name in views if name.startswith("rrc:")]
        names = self.view.split("|")
        if max(crops, default=1) > 1:
            names = [f"rrc:{max(crops)}" if name == "rrc" else name for name in names]
        view = next((name for name in names if name in views), names[-1])
        return self if view == self.view else replace(self, view=view)

    def to_plain(self) -> SettingValues:
        """Return plain JSON, without what earlier records lack: a ``text_share`` of 0, and
        ``composites`` where there are none."""
        lacked = (("text_share", 0.0), ("composites", "none"))
        return {k: v for k, v in asdict(self).items() if (k, v) not in lacked}

    def resolve(self, available: Mapping[str, int], needs_texts: bool = False) -> str:
        """Return the field of a cache to use.

        Args:
            available: field -> dimension. needs_texts: no other field serves the method.

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
                "such as --model ViT-B-16 --pretrained openai"
            )
            if not needs_texts:
                remedy += "; where the method does without texts, give -s feature.field=pooled"
        raise FitError(
            f"the method needs the field {self.field!r}, the cache has {', '.join(available)}; "
            f"{remedy}"
        )


@dataclass(frozen=True)
class Train(MethodStage):
    """A stage that trains a head by gradient steps.

    Args:
        head, loss, objective, sampler: names in their catalogues; the ``_options`` are their
            hyper-parameters where they are not the default.
        init: an initialisation of the head, or ``previous`` (the head of the stage before, which
            is carried on, or whose weights a head of another kind takes over); the first of
            several that the data allow is taken, separated by ``|``.
        partner: what draws a second batch of rows beside each batch, for fusions and objectives
            that need one: a sampler, or ``same_image``, another crop of each row's image.
        fusion: names of fusions in the order in which they act; ``fusion_options`` are the
            hyper-parameters of all of them.
        composites: probability that a batch is replaced by composites of its rows, in the middle
            epochs (:class:`ltcache.fit.composites.CompositeSchedule`); their view is
            ``feature.composites``.
        soup: share a with which each head enters the average of heads that are trained on balanced
            subsets of the rows (:func:`ltcache.fit.soup.train_soup`); 0: one head on all rows.
        subsets: of a soup; None: sizes that double.
        lr_factors: beginning of a parameter's name -> factor on its learning rate; 0 freezes it.
        optimisation: see :class:`Optimisation`.
    """

    PARTS: ClassVar = {
        "head": CatalogueField(HEADS, "head_options"),
        "loss": CatalogueField(LOSSES, "loss_options"),
        "objective": CatalogueField(OBJECTIVES, "objective_options"),
        "fusion": CatalogueField(FUSIONS, "fusion_options", several=True),
        "sampler": CatalogueField(SAMPLERS),
        "partner": CatalogueField(ChainMap(PAIRINGS, SAMPLERS), optional=True),
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
    composites: float = 0.0
    soup: float = 0.0
    subsets: int | None = None
    lr_factors: Mapping[str, float] = field(default_factory=dict)
    optimisation: Optimisation = field(default_factory=Optimisation)

    def __post_init__(self) -> None:
        if not 0 <= self.composites <= 1:
            raise UsageError(f"composites={self.composites} is a probability, 0 to 1")
        if not 0 <= self.soup <= 1 or (self.subsets is not None and self.subsets < 1):
            raise UsageError(
                f"soup={self.soup} is a share, 0 to 1, of at least 1 of subsets={self.subsets}"
            )

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
        lacked = (("composites", 0.0), ("soup", 0.0), ("subsets", None))
        plain = {k: v for k, v in plain.items() if (k, v) not in lacked}  # as earlier records have
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

    def on_views(self, views: Collection[str]) -> Method:
        """Return the method on the views of a cache, see :meth:`FeatureSpec.on_views`."""
        return replace(self, feature=self.feature.on_views(views))

    def on_view(self, view: str | None) -> Method:
        """Return the method trained and predicting on one view; None: as it is."""
        if view is None:
            return self
        return replace(self, feature=replace(self.feature, view=view, eval_view=view))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        names = {kind: name for name, kind in STAGES.items()}
        stages = [{"stage": names[type(s)], **s.to_plain()} for s in self.stages]
        return {**asdict(self), "feature": self.feature.to_plain(), "stages": stages}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Method:
        """Read what :meth:`to_dict` wrote."""
        stages = tuple(_read_stage(entry) for entry in plain["stages"])
        feature = FeatureSpec(**plain["feature"])
        return cls(**{**plain, "feature": feature, "stages": stages})


def _read_stage(entry: Mapping[str, Any]) -> MethodStage:
    require_name("stage", entry["stage"], STAGES)
    return STAGES[entry["stage"]].from_plain({k: v for k, v in entry.items() if k != "stage"})
