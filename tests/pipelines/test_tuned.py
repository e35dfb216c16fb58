"""The pipelines that tune encoders: from a few images to their tables, each tuning done once."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ltcache.errors import FitError
from pipelines import ballad, finetuned, lift, sage, tin, tunings
from tests.conftest import write_images
from tests.encoder.tiny_models import write_tiny_clip
from tests.fakes import run_record


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a folder of images and the name of a tiny encoder."""
    folder = tmp_path_factory.mktemp("tuned")
    for split, counts in {"train": (24, 12, 6), "val": (4, 4, 4), "test": (6, 6, 6)}.items():
        write_images(folder / split, dict(zip(("moth", "newt", "owl"), counts, strict=True)))
    model = write_tiny_clip(tmp_path_factory.mktemp("model") / "tiny")
    return folder, f"local-dir:{model}"


@pytest.fixture
def run(
    few: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:  # fmt: skip
    """Return a function that runs a pipeline as typed: what it printed, and what was tuned."""
    source, model = few
    tuned: list[tuple[str, bool]] = []
    real = tunings.finetune_cache

    def counted(source: Any, method: str, *arguments: Any, **more: Any) -> Any:
        found = real(source, method, *arguments, **more)
        tuned.append((method, found.tuned.fresh))
        return found

    monkeypatch.setattr(tunings, "finetune_cache", counted)
    monkeypatch.setattr(tunings, "FROZEN", ("lift-lp", "sade"))

    def called(pipeline: ModuleType, *more: object, seeds: int = 1, trials: int = 1) -> str:
        tuned.clear()
        typed = ["--source", source, "--model", model, "--out", tmp_path / "out", "--epochs", 1,
                 "--batch", 16, "--loaders", 0, "--workers", 1, "--device", "cpu",
                 "--seeds", seeds, "--trials", trials, *more]  # fmt: skip
        monkeypatch.setattr(sys, "argv", [pipeline.__name__, *map(str, typed)])
        pipeline.main()
        return capsys.readouterr().out

    called.tuned = tuned  # type: ignore[attr-defined]
    called.out = tmp_path / "out"  # type: ignore[attr-defined]
    return called


def lines(file: Path) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in json.loads(file.read_text())["entries"]}


def test_each_tuning_is_done_once_and_leaves_no_checkpoint(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sage, "LINES", (sage.LINES[0], sage.LINES[3]))
    shown = run(sage, seeds=2, trials=2)
    assert [fresh for _, fresh in run.tuned].count(True) == 2 * (2 + 1)  # trials, further seed
    found = lines(run.out / "sage.json")
    assert list(found) == ["Sage base", "Sage (both)"]
    for name, line in found.items():
        assert line["trials"] == 2 and line["tuned_on"]["optimisation.lr"] == "val", name
        assert line["cost"]["finetune_seconds"] > 0 and line["cost"]["encoder_passes"] == 2
        tried = (
            [record["settings"] for record in line["tuning"]["tried"]] if "tuning" in line else []
        )
        assert all(record["optimisation.epochs"] == 1 for record in tried)
    assert "| Sage (both)" in shown and "nan" not in shown
    left = sorted((run.out / "tunings").iterdir())
    assert {"".join(path.suffixes) for path in left} == {".json", ".npz", ".trial.json"}
    assert run(sage, seeds=2, trials=2) == shown and run.tuned == []
    next(iter(run.out.glob("tunings/*-seed1.json"))).unlink()
    assert run(sage, seeds=2, trials=2) and [fresh for _, fresh in run.tuned] == [True]


def test_one_command_makes_the_table_and_takes_what_is_there(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(ballad)
    monkeypatch.setattr(lift, "LINES", (lift.LIFT, lift.FULL))
    run(lift)
    assert [method for method, _ in run.tuned].count("full") == 1  # WiSE-FT is of the same
    found = lines(run.out / "lift.json")
    frozen = next(name for name in found if name.startswith("best frozen head: "))
    crops = found[f"{frozen}, five crops"]
    assert crops["cost"]["encoder_passes"] == found[frozen]["cost"]["encoder_passes"] + 4
    assert crops["scores"]["test"]["nll"] != found[frozen]["scores"]["test"]["nll"]
    assert list(found)[3:5] == ["LIFT", "LIFT, five crops"] and "WiSE-FT" in found
    assert found["WiSE-FT"]["tuned_on"]["average"] == "val"
    five, one = found["LIFT, five crops"], found["LIFT"]
    assert five["cost"]["encoder_passes"] == one["cost"]["encoder_passes"] + 4
    assert five["scores"]["test"]["nll"] != one["scores"]["test"]["nll"]
    everything = [line.name for line in finetuned.LINES]
    assert everything == ["BALLAD A", "TIN", *(line.name for line in sage.LINES), "LIFT",
                          "full fine-tuning"]  # fmt: skip
    lines_of = (ballad.POSTER, sage.LINES[2], lift.LIFT, lift.FULL)
    monkeypatch.setattr(finetuned, "LINES", lines_of)
    shown = run(finetuned)
    assert [method for method, _ in run.tuned] == ["sage"]
    table = lines(run.out / "finetuned.json")
    assert table["LIFT"] == found["LIFT"] | {
        key: table["LIFT"][key] for key in ("rank", "difference")
    }
    assert {"zero-shot", "BALLAD A", "BALLAD A+B", "LIFT", "full fine-tuning"} <= set(table)
    assert table["BALLAD A, then sade"]["cost"]["finetune_seconds"] > 0
    assert table["frozen features, sade"]["cost"]["encoder_passes"] == 1
    assert f"points against {frozen}" in shown


def test_every_table_of_tin(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tin, "POWERS", (0.7,))
    tables = {number: table for number, table in tin.TABLES.items() if number.isdigit()}
    monkeypatch.setattr(tin, "TABLES", tables)
    shown = run(tin, "--table", "all")
    assert len(run.tuned) == 4 + 2 + 3  # of tables 6, 7, 9; TIN itself is in all of them
    assert all(f"Table {number}" in shown for number in "6789")
    weights, towers, powers, parts = (lines(run.out / f"tin-table-{n}.json") for n in "6789")
    same = [weights["image pretrained, text pretrained"], towers["image tuned, text tuned"],
            powers["p = 0.7"], parts["+ seesaw, attention"]]  # fmt: skip
    assert len({json.dumps(line["scores"]) for line in same}) == 1
    assert len({json.dumps(line["scores"]) for line in parts.values()}) == 4
    assert towers[tin.FROZEN]["cost"]["encoder_passes"] == 1


def test_switches_of_tin_are_held_against_zero_shot_of_their_own_prompts(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("the data set's prompts", "classifier on pooled features", "AdamW")
    monkeypatch.setattr(tin, "SWITCHES", {name: tin.SWITCHES[name] for name in names})
    shown = run(tin, "--table", "switches")
    assert [method for method, _ in run.tuned] == ["tin"] * 4 + ["full"]
    found = lines(run.out / "tin-table-switches.json")
    assert list(found) == [tin.OWN, tin.GIVEN, "TIN", f"TIN, {tin.TAKEN_OFF}", *names,
                           "full fine-tuning", f"full, {tin.TAKEN_OFF}"]  # fmt: skip
    cells = [[cell.strip() for cell in line.split("|")] for line in shown.splitlines()]
    against = {row[1]: row[2] for row in cells if row[2:] and row[2].startswith("zero-shot")}
    given = {name for name, base in against.items() if base == tin.GIVEN}
    assert given == {names[0], "full fine-tuning", f"full, {tin.TAKEN_OFF}"}
    assert len(against) == len(found) - 2
    tau = [key for key in found["full, " + tin.TAKEN_OFF]["tuned_on"] if key.startswith("tau")]
    assert len(tau) == 1


def test_the_prior_is_taken_off_by_what_validation_rows_like_best() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 40)
    log_prior = np.log([0.8, 0.15, 0.05])
    fair = 2.0 * np.eye(3)[labels] + rng.normal(size=(120, 3))
    assert tunings.best_tau(fair + 1.0 * log_prior, labels, log_prior) == pytest.approx(1, abs=0.3)
    assert tunings.best_tau(100 * np.eye(3)[labels], labels, log_prior) == 0  # of equal ones


def test_ballad_over_several_encoders(run: Any, few: tuple[Path, str], tmp_path: Path) -> None:
    other = write_tiny_clip(tmp_path / "resnet", kind="resnet")
    shown = run(ballad, "--models", f"{few[1]}:local-dir:{other}", "--code")
    found = json.loads((run.out / "models.json").read_text())
    assert len(found) == 2 and f"| local-dir:{other}" in shown
    names = [entry["name"] for entry in found[few[1]]["entries"]]
    assert names[:4] == ["zero-shot", "BALLAD B alone", "BALLAD A", "BALLAD A+B"]
    assert len(names) == 2 + 2 * 2 + len(ballad.HEADS)
    assert ballad.split_models("RN50,openai:local-dir:/a:b") == [
        "RN50,openai", "local-dir:/a", "b"
    ]  # fmt: skip


def test_a_trial_that_diverges_is_recorded_and_not_chosen(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = tunings.Line("bias", "bias", tunings.rates(3e-2, 1e36))
    monkeypatch.setattr(sage, "LINES", (line,))
    monkeypatch.setattr(sage, "BASE", "bias")
    run(sage, trials=2)
    record = json.loads((run.out / "sage.json").read_text())["tunings"]["bias"]
    assert "lower optimisation.lr (1e+36)" in record["tried"][1]["failed"]
    assert record["chosen"] == {"optimisation.lr": 3e-2} and record["trials"] == 2
    assert not list(run.out.glob("tunings/.*"))
    monkeypatch.setattr(sage, "LINES", (replace(line, tried=line.tried[1:] * 2),))
    with pytest.raises(FitError, match="bias: no trial could be tuned: the loss is"):
        run(sage, trials=2)


def test_a_trial_that_something_else_ends_is_tried_again(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **more: Any) -> Any:
        raise FitError("the GPU's memory does not hold 128 images")

    monkeypatch.setattr(sage, "LINES", sage.LINES[:1])
    with monkeypatch.context() as patch, pytest.raises(FitError, match="does not hold"):
        patch.setattr(tunings, "finetune_cache", full)
        run(sage, trials=2)
    run(sage, trials=2)
    assert len(run.tuned) == 3  # two trials, and the extraction of the chosen one


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    from ltcache.metrics import evaluate_logits
    from ltcache.report import ScoredRun

    metrics = evaluate_logits(np.eye(3), np.arange(3), np.array([3, 2, 1]), bootstrap=10)
    right = np.array([True, False, True])
    one = ScoredRun({"test": metrics}, {"test": right}, run_record(seed=4))
    tunings.write_scored(tmp_path / "x.json", {"": one})
    found = tunings.read_scored(tmp_path / "x.json")[""]
    assert found.metrics["test"] == metrics and (found.right["test"] == right).all()
    assert found.record == one.record and found.seed == 4
