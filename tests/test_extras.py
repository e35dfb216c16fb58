"""Advice to install something never names a package that somebody else could own."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

from ltcache.extras import EXTRAS, how_to_install

ROOT = Path(__file__).parents[1]
TEXTS = [
    ROOT / "README.md",
    *(
        path
        for folder in ("ltcache", "pipelines", "data_manifests", "tests/benchmarks")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".md")
    ),
]


def test_no_text_advises_to_fetch_ltcache_from_an_index() -> None:
    wrong = re.compile(r"pip install[^\n]*ltcache\[|ltcache\[[a-z,]+\]")
    found = {path: wrong.findall(path.read_text(encoding="utf-8")) for path in TEXTS}
    assert {path: texts for path, texts in found.items() if texts} == {}


def test_an_extra_is_named_as_the_readme_installs_it() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert set(EXTRAS) <= set(setup["options.extras_require"])
    assert how_to_install("hf", "tune").startswith("pip install '.[hf,tune]'")
    assert "pip install '.[hf]'" in (ROOT / "README.md").read_text(encoding="utf-8")
