"""What retrieve.json says of a retrieval, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ltcache.records import JsonObject, JsonRecord, digest, read_record
from ltcache.retrieval.guards.neighbours import NearThreshold
from ltcache.retrieval.guards.verdicts import check_guards
from ltcache.retrieval.scoring.index import IndexRecord
from ltcache.retrieval.scoring.threshold import ProbabilityThreshold
from ltcache.retrieval.settings import RetrievalSettings

FORMAT, FILE = 1, "retrieve.json"


@dataclass(frozen=True)
class RetrievedClass:
    """What became of the candidates of one class.

    Args:
        label, name, prompts: of the class. train: its training images. quota: images wanted.
        candidates: how many there were. accepted: how many of them were taken.
        rejected: a key of :data:`ltcache.retrieval.guards.verdicts.REASONS` -> how many.
    """

    label: int
    name: str
    prompts: tuple[str, ...]
    train: int
    quota: int
    candidates: int = 0
    accepted: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class AppliedDecision:
    """A decision about a candidate, and the status and reason that it had before."""

    label: int
    key: str
    decision: str
    status: str
    reason: str


@dataclass(frozen=True)
class RetrievalThresholds:
    """The least p_k, None where none is asked for, and from which score on two images count as
    near duplicates."""

    p: ProbabilityThreshold | None
    near: NearThreshold


@dataclass(frozen=True)
class RetrievalRecord(JsonRecord):
    """A retrieval: what determines it, how guards were calibrated, and what became of each class.

    Args:
        settings: with the temperature and the set of class texts that were used.
        identities: of both caches, under ``cache`` and ``pool``.
        cache, pool: names of their manifests. pools: what each pool is called in the column
            ``pool``, where several were given.
        thresholds: of the guards. group_scheme: what many, medium and few mean.
        classes: in the order of labels.
        index: what stands in index.json, where candidates came from an index.
        candidate_precision: of the pass over the pool.
        stale: identity fields that differed and were let pass. seconds: that it took.
        decisions: of a person, as far as they are in force.
    """

    settings: RetrievalSettings
    identities: Mapping[str, Mapping[str, Any]]
    cache: str
    pool: str
    thresholds: RetrievalThresholds
    group_scheme: str
    classes: tuple[RetrievedClass, ...]
    index: IndexRecord | None = None
    candidate_precision: str = "fp32"
    stale: tuple[str, ...] = ()
    seconds: float = 0.0
    decisions: tuple[AppliedDecision, ...] = ()
    pools: tuple[str, ...] = ()

    @property
    def least_p(self) -> ProbabilityThreshold | None:
        """The least p_k; None where that guard was off, for which earlier versions wrote one."""
        return None if "threshold" in check_guards(self.settings.off) else self.thresholds.p

    @property
    def looks_for_copies(self) -> bool:
        """Whether near duplicates of any images are left out."""
        return not check_guards(self.settings.off) >= {"duplicates", "leaks"}

    @property
    def key(self) -> str:
        """Digest of what determines the result: settings, identities, what ranked the pool where
        that was no pass in float32 over all of it, and a person's decisions."""
        by_hand = [asdict(decision) for decision in self.decisions]
        found = [asdict(self.settings), self.identities, *self._ranking(), *by_hand]
        return digest(found)

    def _ranking(self) -> list[JsonObject]:
        """Return what may have missed candidates that a pass in float32 finds."""
        if self.index is not None:
            named = ("kind", "settings", "factor")
            return [{"index": {name: getattr(self.index, name) for name in named}}]
        if self.candidate_precision != "fp32":
            return [{"candidate_precision": self.candidate_precision}]
        return []

    def to_dict(self) -> JsonObject:
        """Return what stands in retrieve.json, for JSON."""
        found = super().to_dict()
        for name in ("decisions", "pools"):
            if not found[name]:
                del found[name]
        return {"format": FORMAT, "key": self.key, **found}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> RetrievalRecord:
        """Return the record that JSON holds.

        Raises:
            ValueError: a later version wrote it, or it lacks something.
        """
        return read_record(cls, plain, name=FILE, newest=FORMAT, beside=("key",))
