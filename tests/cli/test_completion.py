"""What a shell offers: methods, and what the cache or run on the line has."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from ltcache.cli import cli
from ltcache.cli.install_completion import SHELLS, install_completion
from ltcache.errors import UsageError
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


def test_settings_are_offered_for_the_methods_that_stand_before(cache: Path) -> None:
    fit = ("fit-adapter", cache, "--method", "logit-adjustment", "-s")
    assert offered(*fit, "loss.t") == ["loss.tau="]
    assert offered(*fit, "loss.tau=") == ["loss.tau=1.0"]
    assert offered(*fit, "loss.none=") == []
    assert "loss.tau=" in offered("ablate", cache, "--methods", "ce,logit-adjustment", "-s", "")
    assert offered("fit-adapter", cache, "--method", "none", "-s", "") == []
    assert "optimisation.lr=" in offered("finetune", "--method", "lift", "-s", "optimisation.l")


@pytest.mark.parametrize("shell", SHELLS)
def test_an_installed_completion_is_read_by_a_new_session(
    shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    starts = SHELLS[shell].starts
    if starts is not None:
        starts().write_text("alias one=two\n", encoding="utf-8")
    first = CliRunner().invoke(cli, ["--install-completion"])
    assert first.exit_code == 0, first.output
    assert str(SHELLS[shell].script()) in first.output
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert b"_LTCACHE_COMPLETE" in kept[SHELLS[shell].script()]
    if starts is not None:
        text = starts().read_text(encoding="utf-8")
        assert text.startswith("alias one=two\n") and str(SHELLS[shell].script()) in text
    again = CliRunner().invoke(cli, ["--install-completion"])
    assert again.exit_code == 0 and "written" not in again.output
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == kept


def test_a_bash_that_has_read_it_completes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    install_completion(cli, "bash")
    asked = "source ~/.bashrc; complete -p ltcache"
    found = subprocess.run(
        ["bash", "--norc", "-c", asked], capture_output=True, text=True, check=True
    )
    assert "_ltcache_completion" in found.stdout


def test_a_shell_without_completion_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/dash")
    with pytest.raises(UsageError, match="bash, zsh, fish, not for dash"):
        CliRunner().invoke(cli, ["--install-completion"], catch_exceptions=False)
