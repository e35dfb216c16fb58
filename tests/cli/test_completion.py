"""What a shell offers: methods, and what the cache or run on the line has."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from ltcache.cli import cli
from ltcache.fit import fit_adapter
from ltcache.methods import METHODS
from tests.cli.small_caches import write_cache


def offered(*words: object) -> list[str]:
    """Return what is offered for the last word."""
    *before, typed = map(str, words)
    complete = ShellComplete(cli, {}, "ltcache", "_LTCACHE_COMPLETE")
    return [item.value for item in complete.get_completions(before, typed)]


def test_methods_are_offered_also_behind_a_comma(tmp_path: Path) -> None:
    assert offered("methods", "posthoc") == [n for n in METHODS if n.startswith("posthoc")]
    assert "ce,ncm" in offered("ablate", tmp_path, "--methods", "ce,nc")
    assert "lift-lp" in offered("fit-adapter", tmp_path, "--method", "lift")
    assert offered("finetune", tmp_path, "--method", "lif") == ["lift", "lift-plus"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("completion") / "cache"
    return write_cache(out, {"train": (3, 3, 2, 2), "test": (2, 2, 2, 2)})


def test_a_cache_offers_its_splits_and_prompts(cache: Path) -> None:
    assert offered("zero-shot", cache, "--split", "t") == ["train", "test"]
    assert offered("ablate", cache, "--prompts", "") == ["default"]
    assert offered("extract", "photos", "--views", "center,fl") == ["center,flip"]


def test_a_run_offers_the_splits_of_its_cache(cache: Path, tmp_path: Path) -> None:
    fit_adapter(cache, "ncm", tmp_path / "run")
    assert sorted(offered("evaluate", tmp_path / "run", "--split", "")) == ["test", "train"]


def test_nothing_is_offered_and_nothing_breaks_where_there_is_no_cache(tmp_path: Path) -> None:
    assert offered("zero-shot", tmp_path / "none", "--split", "") == []
    assert offered("evaluate", tmp_path / "none", "--split", "") == []
    assert offered("ablate", "--prompts", "") == []
