"""Many-, medium- and few-shot classes: by thresholds on the training counts, or named outright.

The default is the scheme of OLTR: many n > 100, medium 20 <= n <= 100, few n < 20. Group scores
under different schemes cannot be compared, so every result carries :meth:`GroupScheme.describe`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ltcache.errors import ManifestError, did_you_mean
from ltcache.records import JsonObject, JsonRecord

GROUP_NAMES = ("many", "medium", "few")
UNGROUPED = "-"
_THRESHOLDS = ("many_above", "few_below")


@dataclass(frozen=True)
class GroupScheme(JsonRecord):
    """How classes are grouped.

    Args:
        many_above: a class with more training images is many-shot.
        few_below: a class with fewer training images is few-shot.
        explicit: (group, labels) pairs; where given, the thresholds do not count and a class that
            is in no group is ``-``.
    """

    many_above: int = 100
    few_below: int = 20
    explicit: tuple[tuple[str, tuple[int, ...]], ...] | None = None

    def __post_init__(self) -> None:
        if self.explicit is None and self.few_below > self.many_above + 1:
            raise ManifestError(
                f"groups: few_below={self.few_below} lies above many_above={self.many_above}, "
                "so that a class would be few-shot and many-shot at once"
            )
        labels = [label for _, members in self.explicit or () for label in members]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ManifestError(f"groups: class {twice[0]} is listed twice")

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any] | None) -> GroupScheme:
        """Read thresholds ``{"many_above", "few_below"}`` or explicit ``{"many": [labels], ...}``.

        Raises:
            ManifestError: an unknown key, thresholds and explicit groups mixed, or a bad value.
        """
        if not raw:
            return cls()
        for key in raw:
            if key not in GROUP_NAMES + _THRESHOLDS:
                hint = did_you_mean(key, GROUP_NAMES + _THRESHOLDS, lead="; ")
                raise ManifestError(
                    f"groups: unknown key {key!r}{hint} (known: {', '.join(_THRESHOLDS)}, "
                    f"or {', '.join(GROUP_NAMES)})"
                )
        named = [name for name in GROUP_NAMES if name in raw]
        if named and len(named) != len(raw):
            raise ManifestError("groups: give thresholds or explicit groups, not both")
        try:
            if named:
                return cls(explicit=tuple((n, tuple(int(v) for v in raw[n])) for n in named))
            return cls(
                many_above=int(raw.get("many_above", cls.many_above)),
                few_below=int(raw.get("few_below", cls.few_below)),
            )
        except (TypeError, ValueError) as error:
            if isinstance(error, ManifestError):
                raise
            raise ManifestError(f"groups: cannot read {dict(raw)!r}: {error}") from error

    def assign(self, class_counts: np.ndarray) -> np.ndarray:
        """Return the group of each class, (C,) of ``many``, ``medium``, ``few`` or ``-``.

        Args:
            class_counts: training images per class, (C,); where there are none at all, thresholds
                say nothing, and every class is ``-``.
        """
        counts = np.asarray(class_counts)
        if self._says_nothing_of(counts):
            return np.full(counts.shape, UNGROUPED, dtype="<U6")
        if self.explicit is None:
            names = np.full(counts.shape, "medium", dtype="<U6")
            names[counts > self.many_above] = "many"
            names[counts < self.few_below] = "few"
            return names
        names = np.full(counts.shape, UNGROUPED, dtype="<U6")
        for group, labels in self.explicit:
            outside = [label for label in labels if not 0 <= label < len(counts)]
            if outside:
                raise ManifestError(
                    f"groups: {group} lists class {outside[0]}, but labels run from 0 to "
                    f"{len(counts) - 1}"
                )
            names[list(labels)] = group
        return names

    def _says_nothing_of(self, counts: np.ndarray) -> bool:
        return self.explicit is None and not counts.any()

    def describe(self, applied_to: np.ndarray | None = None) -> str:
        """Return the scheme as the text that stands beside every group score.

        Args:
            applied_to: training images per class, as in :meth:`assign`; None: some.
        """
        if applied_to is not None and self._says_nothing_of(np.asarray(applied_to)):
            return "unknown, since no training rows are counted"
        if self.explicit is None:
            return (
                f"many n>{self.many_above}, medium {self.few_below}<=n<={self.many_above}, "
                f"few n<{self.few_below}"
            )
        return (
            "no groups"
            if not self.explicit
            else "explicit: " + ", ".join(f"{name} {len(labels)}" for name, labels in self.explicit)
        )

    def to_dict(self) -> JsonObject:
        """Return the mapping that :meth:`from_dict` reads."""
        if self.explicit is None:
            return {"many_above": self.many_above, "few_below": self.few_below}
        return {name: list(labels) for name, labels in self.explicit}
