"""Parts of an HTML page that is one file: data that no text can break out of, and what may run."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any


def json_element(name: str, value: Any) -> str:
    """Return an element of JSON that no text in it can end; a script reads it by the id ``name``.

    Args:
        value: plain JSON.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{name}">{text}</script>\n'


def source_hash(text: str) -> str:
    """Return how a content security policy names the one script or style that may be used."""
    found = hashlib.sha256(text.encode()).digest()
    return "sha256-" + base64.b64encode(found).decode()
