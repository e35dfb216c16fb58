"""A late ensemble: class scores of several members, mixed on rows that are aligned by their key.

    OUT/{ensemble.json, metrics.json, per_class.csv}

A member is a run or zero-shot. The members' caches may be of different encoders: only their
classes, and the labels of the rows that they share, must agree. So the last rows of TACKLE can be
made, a network that never saw a text together with CLIP; its poster does not say whether it
averages probabilities or logits, nor with which weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ltcache.ensemble.record import FILE, EnsembleRecord
from ltcache.metrics import Metrics, PairedDifference
from ltcache.records import (
    JsonObject,
    PlaceKind,
    one_line,
    plain_json,
    require_replaceable,
    whole_folder,
    write_json,
)
from ltcache.runs import write_classes


@one_line
@dataclass(eq=False)
class Ensemble:
    """An ensemble with its scores and those of its members on the same rows.

    Attributes:
        record: what stands in ensemble.json.
        metrics: split -> scores. member_metrics: member -> split -> scores.
        differences: member -> ensemble - member in mean accuracy per class, on the scored split.
        best_member: the member that is best there, so that the ensemble is not compared to a weak
            one. class_names: in label order. path: its directory, or None.
    """

    record: EnsembleRecord
    metrics: dict[str, Metrics]
    member_metrics: dict[str, dict[str, Metrics]]
    differences: dict[str, PairedDifference]
    best_member: str
    class_names: tuple[str, ...] = ()
    path: Path | None = None

    @property
    def weights(self) -> dict[str, float]:
        """Member -> weight; they sum to 1."""
        return self.record.weights

    def metrics_record(self) -> JsonObject:
        """Return what stands in metrics.json."""
        record = self.record.to_dict()
        return {
            "method": "ensemble",
            **{name: record[name] for name in ("tuned_on", "group_scheme", "stale", "space")},
            "weights": self.weights,
            "splits": plain_json(self.metrics),
            "members": plain_json(self.member_metrics),
            "best_member": self.best_member,
            "differences": plain_json(self.differences),
        }

    def save(self, out: str | Path, overwrite: bool = False) -> Path:
        """Write the ensemble as a directory.

        Raises:
            UsageError: something else is there, and it is not an ensemble or ``overwrite`` is
                false.
        """
        key = self.record.key
        out = require_replaceable(out, PlaceKind.ENSEMBLE, key=key, overwrite=overwrite)
        with whole_folder(out) as partial:
            self._write(partial)
        self.path = out
        return out

    def _write(self, directory: Path) -> None:
        write_json(directory / FILE, self.record.to_dict())
        write_json(directory / "metrics.json", self.metrics_record())
        counts, groups = np.array(self.record.class_counts), self.record.groups
        write_classes(directory / "per_class.csv", counts, groups, self.class_names, self.metrics)
