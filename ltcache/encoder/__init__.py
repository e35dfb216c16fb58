"""Encoders: open_clip's models with an identity of their own. The only importer of open_clip."""

from __future__ import annotations

from ltcache.encoder.encoder import Encoder, PendingFeatures
from ltcache.encoder.load import load_encoder
from ltcache.encoder.rest import Rest, build_rest
from ltcache.encoder.text import encode_prompts, openai_simple_templates, openai_templates
from ltcache.encoder.tower import ImageTower

__all__ = [
    "Encoder",
    "ImageTower",
    "PendingFeatures",
    "Rest",
    "build_rest",
    "encode_prompts",
    "load_encoder",
    "openai_simple_templates",
    "openai_templates",
]
