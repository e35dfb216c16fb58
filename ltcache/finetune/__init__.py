"""Tuning an encoder on a manifest's images, before its features are extracted again."""

from __future__ import annotations

from ltcache.finetune.finetuning import FineTuned, finetune, open_fine_tuned
from ltcache.finetune.methods import TUNINGS, tuning_by_name
from ltcache.finetune.on_cache import TunedCache, finetune_cache
from ltcache.finetune.overrides import override_tuning, tuning_settings
from ltcache.finetune.spec import FineTuning

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
