"""What a run records of itself: the data, the identities and the choices that it depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ltcache.manifest import SPLITTING
from ltcache.metrics import GroupScheme
from ltcache.records import JsonObject, JsonRecord, read_record

if TYPE_CHECKING:
    from ltcache.cache import Cache, PromptEmbeddings
    from ltcache.methods import FeatureSpec

FORMAT = 1
LEFT_OUT = "left-out fold"
"""The split of training images that a run of ``ltcache ablate --folds`` was not fitted on."""

SCORED = ("val", "test", LEFT_OUT)
"""The splits that a run is scored on when it is made."""

_BESIDE = ("group_scheme", "key", "method")  # in run.json, and known from elsewhere
_LEFT_OUT = (
    "effective_counts",
    "extra",
    "tuning",
    "composites",
    "splitting",
    "rows",
)  # of the JSON where there are none


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
class RunRecord(JsonRecord):
    """What stands in run.json, beside the name of the method and the run's key.

    Attributes:
        seed: of everything random.
        identities: kind (``encoder``, ``classes``, ``view``, ``numerics``, ``prompts``) -> JSON;
            what a cache must have to be scored. train_view: identity of the crops that trained;
            composites: of the view of composites that trained beside them, or None.
        prompts: name of the class texts that were used, or None.
        field: ``embedding``, ``pooled`` or ``tokens``. dim: of it.
        class_counts: labelled training images of each class; with ``groups`` they say which
            classes are many-, medium- and few-shot.
        effective_counts: with the weights of extra rows; None: as ``class_counts``.
        extra: where the extra rows come from, with the ``digest`` of their content.
        logit_scale: of the encoder, or None. splits: split -> rows. rows: digest of the cache's
            list; None in runs of earlier versions. splitting: how ltcache made these splits
            (:class:`ltcache.manifest.SplitRecipe`), or None.
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
    composites: Mapping[str, Any] | None = None
    splitting: Mapping[str, Any] | None = None
    rows: str | None = None

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
            groups=GroupScheme.from_dict(cache.manifest.groups),
            logit_scale=cache.logit_scale,
            splits={s: len(cache.rows(s)) for s in ("train", *SCORED) if s in cache.splits},
            rows=str(cache.manifest.identity()["rows"]),
            provenance=dict(cache.provenance),
            splitting=cache.manifest.card.get(SPLITTING),
            **fitted,
        )

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> RunRecord:
        """Read what stands in run.json.

        Raises:
            ValueError: a later version wrote it, or something is missing.
        """
        return read_record(cls, plain, name="run.json", newest=FORMAT, beside=_BESIDE)

    def to_dict(self) -> JsonObject:
        """Return plain JSON."""
        scheme = self.groups.describe(np.array(self.class_counts))
        plain = {"format": FORMAT, **super().to_dict(), "group_scheme": scheme}
        for name in _LEFT_OUT:
            if plain[name] is None:
                del plain[name]
        return plain
