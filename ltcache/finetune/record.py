"""What a fine-tuning records of itself in the checkpoint's ``ltcache.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ltcache.finetune.spec import FineTuning
from ltcache.metrics import Metrics
from ltcache.records import JsonObject, JsonRecord, read_record

_BESIDE = ("chosen",)  # in the JSON, of several fields


@dataclass(frozen=True)
class TunedHead:
    """The head that was tuned with the encoder: its input dimension, and how it began."""

    dim: int
    init: str


@dataclass(frozen=True)
class TuningCost:
    """What a fine-tuning has cost: seconds of training, validation between epochs included, on how
    many devices of which type, and how many numbers were trained."""

    finetune_seconds: float
    device: str
    ranks: int
    trained_parameters: int


@dataclass(frozen=True)
class TuningRecord(JsonRecord):
    """What stands in ``ltcache.json`` about a tuning.

    Attributes:
        key: digest of ``method``, ``seed``, ``source`` and ``encoder``, which determine the result.
        method: with every setting written out. seed: of everything random.
        source, encoder: identities of the manifest and of the encoder that was tuned.
        field: ``embedding`` or ``pooled``: what the classifier works on.
        templates: of the class texts that were trained with; none without a text tower.
        class_counts: training images.
        head: None where the class texts are the classifier.
        logit_scale: after the tuning; None without a text tower.
        residual_prior: exponent of the class prior that the logits carry.
        epoch: that was chosen, from 1. average: share of the tuned weights in the result, or None.
        tuned_on: what was chosen -> the rows that chose it. averaged: share -> scores.
        splits: split -> images. failures: uri -> why an image was left out.
        val: scores of the result on the validation split, or None where there is none.
        start: the same of the encoder and its classifier before they were tuned, which of class
            texts is zero-shot with the prompts that were trained with; None: not recorded.
        training: how well the classifier knows its training rows; None: not recorded.
    """

    key: str
    method: FineTuning
    seed: int
    source: Mapping[str, Any]
    encoder: Mapping[str, Any]
    field: str
    templates: tuple[str, ...]
    class_counts: tuple[int, ...]
    head: TunedHead | None
    logit_scale: float | None
    residual_prior: float | None
    tuned_on: Mapping[str, str]
    averaged: Mapping[str, Mapping[str, float]]
    splits: Mapping[str, int]
    failures: Mapping[str, str]
    val: Metrics | None
    cost: TuningCost
    epoch: int = 0
    average: float | None = None
    training: Mapping[str, Any] | None = None
    start: Metrics | None = None

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> TuningRecord:
        """Read what :meth:`to_dict` wrote.

        Raises:
            ValueError: a later version wrote it, or something is missing.
        """
        found = {**plain, **plain["chosen"]}
        return read_record(cls, found, name="the record of the tuning", beside=_BESIDE)

    def to_dict(self) -> JsonObject:
        """Return plain JSON."""
        plain = super().to_dict()
        chosen = {name: plain.pop(name) for name in ("epoch", "average")}
        for name in ("training", "start"):
            if plain[name] is None:
                del plain[name]
        plain["chosen"] = {name: value for name, value in chosen.items() if value is not None}
        return plain
