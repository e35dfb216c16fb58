"""Encoders: open_clip's models, and timm's for images alone, with an identity of their own.

The only importer of open_clip and timm.
"""

from __future__ import annotations

from ltcache.encoder.checkpoint import mix_weights, require_place, save_checkpoint
from ltcache.encoder.child import TunedCheckpoint, is_checkpoint, read_checkpoint
from ltcache.encoder.choice import EncoderChoice
from ltcache.encoder.device import choose_device, computes_in, own_device
from ltcache.encoder.encoder import Encoder
from ltcache.encoder.fields import fields_of
from ltcache.encoder.load import (
    ENCODER_FAMILIES,
    EncoderFamily,
    family_of,
    load_chosen,
    load_encoder,
)
from ltcache.encoder.pending import PendingFeatures
from ltcache.encoder.recorded import (
    encoder_of_cache,
    portable,
    recorded_encoder,
    require_encoder_of,
)
from ltcache.encoder.rest import TowerEnd, build_rest
from ltcache.encoder.templates import openai_simple_templates, openai_templates
from ltcache.encoder.tower import ImageTower

__all__ = [
    "ENCODER_FAMILIES",
    "Encoder",
    "EncoderChoice",
    "EncoderFamily",
    "ImageTower",
    "PendingFeatures",
    "TowerEnd",
    "TunedCheckpoint",
    "build_rest",
    "choose_device",
    "computes_in",
    "encoder_of_cache",
    "family_of",
    "fields_of",
    "is_checkpoint",
    "load_chosen",
    "load_encoder",
    "mix_weights",
    "openai_simple_templates",
    "openai_templates",
    "own_device",
    "portable",
    "read_checkpoint",
    "recorded_encoder",
    "require_encoder_of",
    "require_place",
    "save_checkpoint",
]
