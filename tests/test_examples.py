"""The examples in the docstrings of the public entry points run, and show what they say."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path
from typing import Any

import pytest

from ltcache import LongTailClassifier
from ltcache.ablate import ablate
from ltcache.cache import open_cache
from ltcache.extract import extract
from ltcache.fit import fit_adapter
from ltcache.manifest import read_manifest
from ltcache.retrieval import retrieve_part, retrieve_tail
from tests.class_folders import write_images

COUNTS = {
    "train": {"cat": 12, "newt": 4},
    "val": {"cat": 4, "newt": 4},
    "test": {"cat": 4, "newt": 4},
}
ENTRY_POINTS = (
    extract, open_cache, fit_adapter, ablate, retrieve_tail, retrieve_part, LongTailClassifier,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the ``photos``, ``cache`` and ``pool`` that the examples begin with."""
    root = tmp_path_factory.mktemp("examples")
    for split, counts in COUNTS.items():
        write_images(root / "photos" / split, counts)
    extract(root / "photos", root / "cache")
    web = write_images(root / "web", {"images": 12}) / "images"
    extract(read_manifest(web, labelled=False), root / "pool")
    return root


@pytest.mark.parametrize("entry_point", ENTRY_POINTS, ids=lambda found: found.__name__)
def test_an_example_shows_what_it_says(
    entry_point: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("photos",) if entry_point is extract else ("photos", "cache", "pool"):
        (tmp_path / name).symlink_to(folder / name)
    monkeypatch.chdir(tmp_path)
    runner, names = doctest.DocTestRunner(), dict(vars(inspect.getmodule(entry_point)))
    text = inspect.getdoc(entry_point) or ""
    example = doctest.DocTestParser().get_doctest(text, names, entry_point.__name__, None, 0)
    assert example.examples
    printed: list[str] = []
    runner.run(example, out=printed.append)
    assert not runner.failures, "".join(printed)
