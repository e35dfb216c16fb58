"""The fine-tunings, as data: every family's entries under their names."""

from __future__ import annotations

from ltcache.errors import UsageError
from ltcache.finetune.methods import ballad, lift, sage, tin, tuning, vl_ltr
from ltcache.finetune.spec import FineTuning
from ltcache.methods import ALIASES, METHODS, nearest_names

_ALL = (
    *ballad.TUNINGS,
    *tin.TUNINGS,
    *sage.TUNINGS,
    *lift.TUNINGS,
    *tuning.TUNINGS,
    *vl_ltr.TUNINGS,
)

TUNINGS: dict[str, FineTuning] = {entry.name: entry for entry in _ALL}
if len(TUNINGS) != len(_ALL):
    raise RuntimeError("two fine-tunings share a name")


def tuning_by_name(name: str) -> FineTuning:
    """Return a fine-tuning.

    Raises:
        UsageError: there is none of that name (the nearest are named), or it is a method on cached
            features.
    """
    if name in TUNINGS:
        return TUNINGS[name]
    near = nearest_names(name, TUNINGS)
    if name in METHODS or name in ALIASES:
        raise UsageError(
            f"{name} is fitted to cached features: ltcache fit-adapter --method {name}; of "
            f"fine-tunings {near}"
        )
    raise UsageError(f"unknown fine-tuning {name!r}; {near}")
