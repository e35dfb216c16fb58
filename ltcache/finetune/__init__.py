"""Tuning an encoder on a manifest's images, before its features are extracted again.

What trains is imported when it is asked for, with open_clip; the fine-tunings are data.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ltcache.finetune.methods import TUNINGS, tuning_by_name
from ltcache.finetune.overrides import override_tuning, tuning_settings
from ltcache.finetune.spec import FineTuning

if TYPE_CHECKING:
    from ltcache.finetune.finetuning import FineTuned, finetune, open_fine_tuned
    from ltcache.finetune.on_cache import TunedCache, finetune_cache

__all__ = [
    "TUNINGS",
    "FineTuned",
    "FineTuning",
    "TunedCache",
    "finetune",
    "finetune_cache",
    "open_fine_tuned",
    "override_tuning",
    "tuning_by_name",
    "tuning_settings",
]

_TRAINS = {
    **dict.fromkeys(("FineTuned", "finetune", "open_fine_tuned"), "finetuning"),
    **dict.fromkeys(("TunedCache", "finetune_cache"), "on_cache"),
}


def __getattr__(name: str) -> object:
    """Import what trains."""
    if name not in _TRAINS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_TRAINS[name]}"), name)
