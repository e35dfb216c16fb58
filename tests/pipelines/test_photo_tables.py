"""Every table on photographs with one command."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipelines import photo_tables


@pytest.mark.parametrize("more", [[], ["--workers", "1"], ["--seeds", "1", "--trials", "2"]])
def test_every_recipe_gets_what_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    arguments = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), *more]
    called: list[tuple[str, list[str]]] = []
    for recipe in photo_tables.RECIPES:

        def main(given: list[str], name: str = recipe.__name__) -> None:
            called.append((name, given))

        monkeypatch.setattr(recipe, "main", main)
    monkeypatch.setattr(sys, "argv", ["photo_tables", *arguments])
    photo_tables.main()
    assert called == [
        (f"pipelines.{name}", arguments) for name in ("photos", "photo_claims", "photo_tuning")
    ]
