"""A page that is one file: a template with its style, its scripts and its data.

Nothing is loaded from elsewhere, and a content security policy holds the page to that. Names are
text or data, never markup: Jinja escapes what stands in the template, and no text ends an element
of data.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ltcache.records import committed, source_hash


def write_page(
    path: Path, template: Path, title: str, data: Iterable[str], *, library: str = "", **shown: Any
) -> int:
    """Write a page, piece by piece, and return its size in bytes.

    Args:
        template: extends ``base.html``, with a style (``.css``) and a script (``.js``) of the same
            name beside it; they come after those that all pages have.
        title: as text. data: elements (:func:`ltcache.records.json_element`).
        library: a script that comes before the page's own and may give elements a style, which no
            hash can name. shown: values that the template has a place for.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    style, script = (_with_shared(template.with_suffix(suffix)) for suffix in (".css", ".js"))
    scripts = [library, script] if library else [script]
    policy = "; ".join(
        [
            f"default-src 'none'; img-src data:{' blob:' if library else ''}",
            "base-uri 'none'; form-action 'none'",
            f"style-src {_quoted('unsafe-inline' if library else source_hash(style))}",
            f"script-src {' '.join(_quoted(source_hash(text)) for text in scripts)}",
        ]
    )
    pages = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    stream = pages.get_template(template.name).stream(
        shown,
        policy=policy,
        title=title,
        style=Markup(style),
        data=map(Markup, data),
        scripts=list(map(Markup, scripts)),
    )
    with committed(path) as temporary:
        # bytes of a file name that are no text: in JSON, too, the escape is theirs
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(stream)
        return temporary.stat().st_size


def _quoted(text: str) -> str:
    return f"'{text}'"


def _with_shared(own: Path) -> str:
    shared = Path(__file__).with_name("shared" + own.suffix)
    return shared.read_text(encoding="utf-8") + own.read_text(encoding="utf-8")
