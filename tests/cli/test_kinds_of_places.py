"""Folders of seeds, ensembles and other places, given to commands that take a run or a cache."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ltcache.cli import main
from tests.cli.small_caches import write_cache
from tests.conftest import Call

SPLITS = {"train": (20, 10, 6, 5), "val": (4,) * 4, "test": (5,) * 4}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a cache, and runs: ncm, seeds of ce, and an ensemble of the two."""
    root = tmp_path_factory.mktemp("places")
    cache, runs = write_cache(root / "cache", SPLITS), root / "runs"
    few = ("--seeds", "2", "-s", "optimisation.epochs=2")
    for command in (
        ("fit-adapter", cache, "--method", "ncm", "--out", runs / "ncm"),
        ("fit-adapter", cache, "--method", "ce", "--out", runs / "ce", *few),
        ("ensemble", runs / "ncm", "zero-shot", "--weights", "1,2", "--out", runs / "both"),
    ):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in command])
        assert caught.value.code == 0
    return root


def test_seeds_are_evaluated_as_they_were_reported(call: Call, made: Path) -> None:
    status, out, err = call("evaluate", made / "runs" / "ce")
    assert status == 0 and err.count("ended before it had fitted") == len(err.splitlines()) == 2
    assert "2 seeds (seed-0, seed-1), mean ± sd in %" in out and "test split, 20 images" in out
    stored = json.loads((made / "runs" / "ce" / "summary.json").read_text())["splits"]
    assert json.loads(call("evaluate", made / "runs" / "ce", "--json")[1]) == {
        "test": stored["test"]
    }
    val = json.loads(call("evaluate", made / "runs" / "ce", "--json", "--split", "val")[1])
    assert val == {"val": stored["val"]}


def test_seeds_of_several_methods_have_no_mean(call: Call, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "runs" / "ce" / "seed-0", tmp_path / "seed-0")
    shutil.copytree(made / "runs" / "ncm", tmp_path / "seed-1")
    status, _, err = call("evaluate", tmp_path, "--cache", made / "cache")
    assert status == 2 and "seed-1" in err and f"ltcache report {tmp_path}" in err


def test_an_ensemble_is_evaluated_with_its_own_weights(call: Call, made: Path) -> None:
    both = made / "runs" / "both"
    stored = json.loads((both / "metrics.json").read_text())["splits"]["test"]
    assert json.loads(call("evaluate", both, "--json")[1]) == stored
    assert call("evaluate", both, "--split", "val")[0] == 0
    status, _, err = call("evaluate", both, "--shift", "forward-5")
    assert status == 2 and "is an ensemble, which is scored without --shift" in err


@pytest.mark.parametrize("text", ["[]", "{}", '{"members": [3], "space": "logits"}'])
def test_a_damaged_ensemble_is_named(call: Call, tmp_path: Path, text: str) -> None:
    (tmp_path / "ensemble.json").write_text(text)
    status, _, err = call("evaluate", tmp_path)
    assert status == 1 and f"{tmp_path / 'ensemble.json'}: cannot be read" in err


def test_where_one_run_is_needed_one_is_named(call: Call, made: Path, tmp_path: Path) -> None:
    seeds, both, cache = made / "runs" / "ce", made / "runs" / "both", made / "cache"
    out = ("--out", tmp_path / "out")
    for status, text, command in (
        (2, f"such as {seeds / 'seed-0'}", ("predict", seeds, "a.png")),
        (2, f"such as {seeds / 'seed-0'}", ("export", seeds, *out)),
        (2, f"such as {seeds / 'seed-0'}", ("ensemble", seeds, "zero-shot", *out)),
        (2, "is an ensemble; give", ("predict", both, "a.png")),
        (2, "is an ensemble; give", ("export", both, *out)),
        (2, f"such as {seeds / 'seed-0'}", ("predict", made / "runs", "a.png")),
        (2, "is a folder of runs: ltcache report", ("evaluate", made / "runs")),
        (2, f"fit-adapter {cache} --out RUN", ("evaluate", cache)),
        (1, f"is a run; give {cache}", ("zero-shot", made / "runs" / "ncm")),
        (1, f"give {cache}", ("diff", seeds, cache)),
        (2, "is a run: it is exported as bundle or onnx",
         ("export", made / "runs" / "ncm", "--format", "hf", *out)),
    ):  # fmt: skip
        found, shown, err = call(*command)
        assert (found, shown) == (status, ""), command
        assert text in err, command
    assert not (tmp_path / "out").exists()


def test_a_report_names_the_folders_that_it_leaves_out(
    call: Call, made: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(made / "runs", runs)
    shutil.copytree(made / "cache", tmp_path / "cache")
    other = write_cache(tmp_path / "other", SPLITS | {"test": (9,) * 4})
    bare = write_cache(tmp_path / "bare", {"train": SPLITS["train"]})
    for name, cache in (("aside", other), ("bare", bare)):
        assert call("fit-adapter", cache, "--method", "ncm", "--out", runs / name)[0] == 0
    broken = {"broken": "head.safetensors", "odd": "run.json", "torn": "metrics.json"}
    for name, file in broken.items():
        shutil.copytree(runs / "ncm", runs / name)
        (runs / name / file).write_text("{}")
    (runs / "notes").mkdir()
    status, out, err = call("report", runs)
    assert (status, err) == (0, "")
    lines = {line.split("|")[1].strip(" *~") for line in out.splitlines() if line.startswith("|")}
    assert {"ce", "ncm"} < lines and not lines & {"broken", "odd", "both"}
    for name in ("aside", "bare", "broken", "odd", "torn", "both"):
        assert f"left out: {runs / name}:" in out, name
    assert "scored on other test rows (36) than most of these runs (20)" in out
    status, _, err = call("report", runs / "ce", runs / "ncm", runs / "aside")
    assert status == 2 and f"{runs / 'aside'}: scored on other test rows" in err
    assert call("report", runs / "notes")[0] == 2
