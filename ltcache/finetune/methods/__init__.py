"""The fine-tunings, as data: every family's entries under their names."""

from __future__ import annotations

from difflib import get_close_matches

from ltcache.errors import UsageError
from ltcache.finetune.methods import ballad, lift, sage, tin, tuning
from ltcache.finetune.spec import FineTuning

_ALL = (*ballad.TUNINGS, *tin.TUNINGS, *sage.TUNINGS, *lift.TUNINGS, *tuning.TUNINGS)

TUNINGS: dict[str, FineTuning] = {entry.name: entry for entry in _ALL}
if len(TUNINGS) != len(_ALL):
    raise RuntimeError("two fine-tunings share a name")


def tuning_by_name(name: str) -> FineTuning:
    """Return a fine-tuning.

    Raises:
        UsageError: there is none of that name; the nearest are listed.
    """
    if name in TUNINGS:
        return TUNINGS[name]
    near = get_close_matches(name, TUNINGS, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UsageError(f"unknown fine-tuning {name!r}; {hint}known: {', '.join(TUNINGS)}")
