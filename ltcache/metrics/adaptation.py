"""What a head that learns from the rows that it predicts has learned from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ltcache.records import JsonRecord, one_line

_SHOWN = 8  # numbers of a list that are printed; a list of one for each class is longer


@one_line
@dataclass(frozen=True)
class RowAdaptation(JsonRecord):
    """What one adjustment has learned from unlabelled rows just before it predicted them.

    Attributes:
        adjustment: the name of its class.
        split: that the rows are of. rows: how many. view: whose crops were looked at.
        learned: name -> number or list of numbers.
    """

    adjustment: str
    split: str
    rows: int
    view: str
    learned: Mapping[str, Any]

    def words(self) -> str:
        """Return it as one clause; of a long list only its length and range."""
        learned = ", ".join(f"{name} {_shown(value)}" for name, value in self.learned.items())
        return (
            f"{self.adjustment} learned from these {self.rows} images of {self.split} ({self.view})"
            f" without their labels (transductive: one image's prediction depends on the others): "
            f"{learned}"
        )


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if not isinstance(value, Sequence) or isinstance(value, str):
        return str(value)
    if len(value) > _SHOWN:
        return f"({len(value)} of {min(value):.3g} to {max(value):.3g})"
    return f"({' '.join(f'{number:.3g}' for number in value)})"
