"""CLIP's own prompt templates, as open_clip ships them."""

from __future__ import annotations

import open_clip


def openai_templates() -> tuple[str, ...]:
    """Return the 80 templates of CLIP for ImageNet, with ``{}`` for the class name."""
    return tuple(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES)


def openai_simple_templates() -> tuple[str, ...]:
    """Return the 7 of them that were found to do as well, with ``{}`` for the class name."""
    return tuple(template("{}") for template in open_clip.SIMPLE_IMAGENET_TEMPLATES)
