"""Comparisons as a person types them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from ltcache.cli import main
from ltcache.methods import METHODS, UNAVAILABLE
from tests.cli.small_caches import write_cache
from tests.conftest import Call, write_images

SHORT = ("-s", "optimisation.epochs=2")


@pytest.fixture(scope="module")
def cache(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache of three classes with three splits."""
    root = tmp_path_factory.mktemp("birds")
    for split, counts in {"train": (24, 12, 6), "val": (4, 4, 4), "test": (6, 6, 6)}.items():
        names = ("blue jay", "moth", "newt")
        write_images(root / split, dict(zip(names, counts, strict=True)))
    out = tmp_path_factory.mktemp("ablate") / "cache"
    model = f"local-dir:{tiny_clip}"
    with pytest.raises(SystemExit) as caught:
        main(["extract", str(root), "--out", str(out), "--model", model, "--threads", "1"])
    assert caught.value.code == 0
    return out


@pytest.mark.parametrize("name", ["ablate", "report"])
def test_every_command_has_a_help_with_an_example(call: Call, name: str) -> None:
    status, out, _ = call(name, "--help")
    assert status == 0 and "--json" in out and f"ltcache {name} " in out


def test_an_ablation_its_report_and_its_files(call: Call, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("ablate", cache, "--methods", "ce,crt,ncm", "--seeds", 2, "--out", out, *SHORT)
    status, table, err = call(*arguments)
    assert status == 0 and "finished 6/6, runs: " in err
    assert "| ce " in table and "vs ce" in table and "test split, 18 images" in table
    assert "note: optimisation.epochs is no setting of ncm" in table
    status, again, _ = call(*arguments, "--json")
    found = json.loads(again)
    assert status == 0 and found == json.loads((out / "results.json").read_text())
    status, text, _ = call("report", out, "--json")
    read = json.loads(text)
    assert [e["difference"] for e in read["entries"]] == [e["difference"] for e in found["entries"]]
    status, text, _ = call("report", out, "--baseline", "crt", "--csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 6 and {row["split"] for row in rows} == {"val", "test"}
    assert [(row["name"], row["split"]) for row in rows[2:4]] == [("ncm", "val"), ("ce", "test")]
    assert float(rows[3]["difference"]) == -float(
        next(e for e in found["entries"] if e["name"] == "crt")["difference"]["test"]["difference"]
    )
    run = out / found["entries"][0]["runs"][0]
    status, text, _ = call("report", run, "--latex")
    assert status == 0 and r"\begin{tabular}" in text
    assert call("report", out / "nothing")[0] == 2


def test_a_grid_and_a_failure_with_status_3(call: Call, cache: Path, tmp_path: Path) -> None:
    status, table, err = call(
        "ablate", cache, "--methods", "ce", "--seeds", 1, "--out", tmp_path / "out", *SHORT,
        "--grid", "init=random,previous",
    )  # fmt: skip
    assert status == 3 and "1 run failed" in err
    assert "| ce, init=random" in table
    assert "failed: ce, init=previous, seed 0: init=previous needs a stage before it" in table
    wrong = ("ablate", cache, "--methods", "ce", "--out", tmp_path / "wrong")
    status, _, err = call(*wrong, "--grid", "loss.tua=1")
    assert status == 2 and "no method has a setting 'loss.tua'" in err
    status, _, err = call(*wrong, "--grid", "loss.tau")
    assert status == 2 and "write it as key=v1,v2" in err
    status, _, err = call("ablate", cache, "--methods", "abl", "--out", tmp_path / "wrong")
    assert status == 2 and "not trainable on cached features" in err


def test_fit_adapter_tunes_and_records_it(call: Call, cache: Path, tmp_path: Path) -> None:
    fit = ("fit-adapter", cache, "--method", "logit-adjustment", *SHORT)
    status, out, err = call(*fit, "--out", tmp_path / "run", "--tune", "--grid", "loss.tau=0.5,2")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert status == 0 and err.count("tried loss.tau=") == 2
    assert record["tuned_on"] == {"epoch": "val", "loss.tau": "val"}
    assert record["tuning"]["trials"] == 2
    assert f"chose loss.tau={record['tuning']['chosen']['loss.tau']} of 2 settings" in err
    assert "epoch, loss.tau chosen on val" in out and "no part in that" not in err
    status, _, err = call(*fit, "--out", tmp_path / "no", "--grid", "loss.tau=0.5,2")
    assert status == 2 and "--grid has no effect without --tune" in err
    status, _, err = call(*fit, "--out", tmp_path / "no", "--tune", "--grid", "loss.tua=0.5")
    assert status == 2 and "loss.tau" in err and not (tmp_path / "no").exists()


def test_fit_adapter_tells_which_classes_had_no_part_in_tuning(call: Call, tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", {"train": (20, 10, 5, 2), "val": (3, 3, 0, 0)})
    fit = ("fit-adapter", cache, "--tune", "--grid", "loss.tau=0.5,2", *SHORT)
    _, _, err = call(*fit, "--out", tmp_path / "run")
    assert "no part in that: 2 classes without a row there; with --tune-folds 3" in err
    _, _, err = call(*fit, "--out", tmp_path / "folds", "--tune-folds", 2)
    assert "on 2 folds of train" in err and "no part in that" not in err


def test_auto_says_what_it_compared_and_chose(call: Call, cache: Path, tmp_path: Path) -> None:
    status, out, err = call(
        "fit-adapter", cache, "--method", "auto", "--seeds", 2, "--out", tmp_path / "auto", *SHORT
    )
    record = json.loads((tmp_path / "auto" / "seed-1" / "run.json").read_text())
    chosen = record["tuning"]["auto"]["methods"]["chosen"]
    assert status == 0 and record["tuned_on"]["method"] == "val"
    assert f"chose {chosen}: " in err
    assert "mean accuracy per class on val, %, 3 seeds: logit-adjustment" in err
    assert f"auto: {chosen}, 2 seeds" in out


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_is_explained(call: Call, name: str) -> None:
    status, out, _ = call("methods", name)
    method = METHODS[name]
    assert status == 0 and out.startswith(f"{name}: ") and method.reference in out
    assert method.fidelity in out and method.differs in out and "stage 0: " in out
    assert not method.mechanism or f"mechanism: {method.mechanism}" in out


def test_equations_stand_beside_the_stages(call: Call) -> None:
    out = call("methods", "dr+h2t")[1]
    assert "  head: linear: z = W f + b" in out and "  fusion: h2t: " in out
    assert "ablation:  -s fusion=none -s partner=none switches it off" in out
    plain = json.loads(call("methods", "ce", "--json")[1])
    assert plain["equations"][0]["head"] == "linear: z = W f + b"


@pytest.mark.parametrize("name", sorted(UNAVAILABLE))
def test_every_method_that_cannot_be_trained_is_explained(call: Call, name: str) -> None:
    status, out, _ = call("methods", name)
    entry = UNAVAILABLE[name]
    assert status == 0 and entry.why in out and entry.needs in out and entry.reference in out
    assert name in call("methods")[1]
