"""A page that is one file: a template with its style, its script and its data.

Nothing is loaded from elsewhere, and a content security policy holds the page to that. What stands
in the data is never markup.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from pathlib import Path

from ltcache.records import committed, source_hash


def write_page(path: Path, template: Path, title: str, data: Iterable[str]) -> int:
    """Write a page, piece by piece, and return its size in bytes.

    Args:
        template: an HTML file, with a style (``.css``) and a script (``.js``) of the same name
            beside it; they come after those that all pages have.
        title: as text. data: elements (:func:`ltcache.records.json_element`).
    """
    style, script = (_with_shared(template.with_suffix(suffix)) for suffix in (".css", ".js"))
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{source_hash(style)}'; script-src '{source_hash(script)}'"
    )
    values = {"policy": policy, "title": html.escape(title), "style": style, "script": script}
    with committed(path) as temporary:
        # bytes of a file name that are no text: in JSON, too, the escape is theirs
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
            for piece in re.split(r"(\{\{\w+\}\})", template.read_text(encoding="utf-8")):
                if piece == "{{data}}":
                    file.writelines(data)
                else:
                    file.write(values.get(piece[2:-2], piece) if piece[:2] == "{{" else piece)
        return temporary.stat().st_size


def _with_shared(own: Path) -> str:
    shared = Path(__file__).with_name("shared" + own.suffix)
    return shared.read_text(encoding="utf-8") + own.read_text(encoding="utf-8")
