"""What a retrieval is asked for; written into retrieve.json as it is."""

from __future__ import annotations

from dataclasses import dataclass

from ltcache.errors import UsageError
from ltcache.retrieval.guards.neighbours import FALSE_ALARM
from ltcache.retrieval.guards.verdicts import check_guards


@dataclass(frozen=True)
class RetrievalSettings:
    """What is retrieved and what is kept out.

    Args:
        groups, max_count, labels: which classes (:func:`ltcache.retrieval.selection.tail_classes`).
        per_class, up_to: how many each (:func:`ltcache.retrieval.selection.quotas`).
        candidates: per class, before the guards; None: four times the quota and 20 more.
        tau: of the softmax; None: 1 / logit_scale of the encoder.
        prompts: a set of class texts of the cache; None: the default set.
        pooling: of a class's sentences, ``mean`` or ``max``.
        mean_weight: of the class mean of training images in each prompt, 0..1.
        threshold: least p_k; None: 0.5, or calibrated where ``precision`` is given.
        precision: calibrate the threshold to it on training images.
        margin: least log p_k - log p_runner_up.
        false_alarm: rate at which distinct training images may count as near duplicates.
        per_source: picks of one source in one class, at most.
        source_column: of the pool's manifest; None: source, vendor, host, or the url's host.
        off: guards that are switched off, of ``guards.verdicts.GUARDS``, or ``all``.
        view: of both caches. seed: of the training images that a threshold is calibrated on.
    """

    groups: tuple[str, ...] = ()
    max_count: int | None = None
    labels: tuple[int, ...] | None = None
    per_class: int | None = None
    up_to: int | str | None = None
    candidates: int | None = None
    tau: float | None = None
    prompts: str | None = None
    pooling: str = "mean"
    mean_weight: float = 0.0
    threshold: float | None = None
    precision: float | None = None
    margin: float = 0.0
    false_alarm: float = FALSE_ALARM
    per_source: int | None = None
    source_column: str | None = None
    off: tuple[str, ...] = ()
    view: str = "center"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.threshold is not None and self.precision is not None:
            raise UsageError("give a threshold on p_k or a precision to calibrate it to, not both")
        if not 0 < self.false_alarm < 1:
            raise UsageError(f"the rate of false alarms is {self.false_alarm}, not within 0 and 1")
        for name in ("candidates", "per_source"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}: it must be at least 1")
        check_guards(self.off)
