"""What a run records of itself: the data, the identities and the choices that it depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltcache.metrics import GroupScheme
from ltcache.records import record_fields

if TYPE_CHECKING:
    from ltcache.cache import Cache, PromptEmbeddings
    from ltcache.methods import FeatureSpec

FORMAT = 1
SCORED = ("val", "test")
"""The splits that a run is scored on when it is made."""

_BESIDE = ("group_scheme", "key", "method")  # in run.json, and known from elsewhere
_LISTS = ("choices", "class_counts", "effective_counts", "init", "stale")
_LEFT_OUT = ("effective_counts", "extra", "tuning")  # of the JSON where there are none


@dataclass(frozen=True)
class RunCost:
    """What a run has cost.

    Attributes:
        encoder_passes: over the images, for the crops of its view and for tuning the encoder.
        extraction_seconds, finetune_seconds: of its cache and of that cache's encoder, or None
            where nobody knows. head_seconds: of the fit.
    """

    encoder_passes: float
    extraction_seconds: float | None
    finetune_seconds: float | None
    head_seconds: float

    @classmethod
    def of(cls, cache: Cache, crops: int, head_seconds: float) -> RunCost:
        """Return the cost of a fit on a cache, ``crops`` of each image being what it used."""
        from ltcache.cache import read_cost

        before = read_cost(Path(cache.path))
        passes = crops + before["finetune_passes"]
        return cls(passes, before["seconds"], before["finetune_seconds"], head_seconds)


@dataclass(frozen=True)
class RunRecord:
    """What stands in run.json, beside the name of the method and the run's key.

    Attributes:
        seed: of everything random.
        identities: kind (``encoder``, ``classes``, ``view``, ``numerics``, ``prompts``) -> JSON;
            what a cache must have to be scored. train_view: identity of the crops that trained.
        prompts: name of the class texts that were used, or None.
        field: ``embedding``, ``pooled`` or ``tokens``. dim: of it.
        class_counts: labelled training images of each class; with ``groups`` they say which
            classes are many-, medium- and few-shot.
        effective_counts: with the weights of extra rows; None: as ``class_counts``.
        extra: where the extra rows come from, with the ``digest`` of their content.
        logit_scale: of the encoder, or None. splits: split -> rows.
        tuned_on: what was chosen -> the rows that chose it, in words. tuning: how settings were
            searched. choices: of each stage, what it chose. init: how each stage began.
        residual_prior: exponent of the class prior that the logits carry; None: not known.
        training: how well the head knows its training rows (:class:`ltcache.fit.TrainingFit`).
        stale: identity fields that were let pass.
        provenance: how the encoder of the cache was named. cache: where that is, relative to the
            run's directory; None for a run that was not written.
    """

    seed: int
    identities: Mapping[str, Any]
    prompts: str | None
    field: str
    dim: int
    class_counts: tuple[int, ...]
    groups: GroupScheme
    logit_scale: float | None
    tuned_on: Mapping[str, str]
    choices: tuple[Mapping[str, Any], ...]
    stale: tuple[str, ...]
    cost: RunCost
    splits: Mapping[str, int]
    init: tuple[str, ...] = ()
    train_view: Mapping[str, Any] | None = None
    residual_prior: float | None = None
    training: Mapping[str, Any] | None = None
    provenance: Mapping[str, str | None] | None = None
    cache: str | None = None
    effective_counts: tuple[float, ...] | None = None
    extra: Mapping[str, Any] | None = None
    tuning: Mapping[str, Any] | None = None

    @classmethod
    def on_cache(
        cls, cache: Cache, feature: FeatureSpec, texts: PromptEmbeddings | None, **fitted: Any
    ) -> RunRecord:
        """Return the record of a run that was fitted on a cache.

        Args:
            feature: which views were used. texts: the class texts that were, or None.
            fitted: the fields that the fit determines.
        """
        return cls(
            identities=cache.identities(feature.eval_view, texts),
            train_view=cache.identities(feature.view)["view"],
            prompts=None if texts is None else texts.name,
            groups=GroupScheme.from_mapping(cache.manifest.groups),
            logit_scale=cache.logit_scale,
            splits={s: len(cache.rows(s)) for s in ("train", *SCORED) if s in cache.splits},
            provenance=dict(cache.provenance),
            **fitted,
        )

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> RunRecord:
        """Read what stands in run.json.

        Raises:
            ValueError: a later version wrote it, or something is missing.
        """
        values = record_fields(cls, plain, name="run.json", newest=FORMAT, beside=_BESIDE)
        values["groups"] = GroupScheme.from_mapping(values["groups"])
        values["cost"] = RunCost(**values["cost"])
        for name in _LISTS:
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in _LEFT_OUT:
            if plain[name] is None:
                del plain[name]
        lists = {name: list(plain[name]) for name in _LISTS if name in plain}
        groups = {"groups": self.groups.to_mapping(), "group_scheme": self.groups.describe()}
        return {"format": FORMAT, **plain, **lists, **groups, "cost": asdict(self.cost)}
