"""What earlier versions wrote opens, and gives the numbers that it gave then."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ltcache.cache import open_cache
from ltcache.encoder import load_encoder
from ltcache.finetune import open_fine_tuned
from ltcache.retrieval import open_retrieved
from ltcache.runs import open_run
from tests.conftest import Call
from tests.kept.write import METHODS, MODEL, QUICK, TUNINGS

VERSIONS = sorted(path.name for path in Path(__file__).parent.glob("v*"))
RUNS = (*METHODS, "tin", "tin-tokens", "seeds/seed-0", "seeds/seed-1")


@pytest.fixture(scope="module", params=VERSIONS)
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all that one version wrote."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    for archive in sorted((Path(__file__).parent / request.param).glob("*.zip")):
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)
    return folder


@pytest.fixture(autouse=True)
def inside(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in the folder, as when the artefacts were written."""
    monkeypatch.chdir(kept)


def test_the_cache_verifies_and_has_its_failed_row(call: Call) -> None:
    status, shown, err = call("verify", "cache", "--json")
    assert status in (0, 3), shown + err
    cache = open_cache("cache")
    assert cache.views == ("center", "flip") and cache.prompt_names == ("default",)
    assert set(cache.field_dims("flip")) == {"embedding", "pooled", "tokens"}
    assert np.isfinite(cache.features("train", "tokens", "flip")).all()
    failed = [row for row in cache.manifest.rows.to_pylist() if "broken" in row["key"]]
    assert len(failed) == 1 and len(cache.labels("train")) == sum((12, 6, 3))


def test_the_cache_takes_the_same_extraction_as_done(call: Call) -> None:
    before = {path: path.read_bytes() for path in Path("cache").rglob("*.h5")}
    status, shown, _ = call("extract", "images", "--out", "cache", *MODEL, "--threads", "1")
    assert status == 3 and "nothing to encode" in shown
    assert {path: path.read_bytes() for path in Path("cache").rglob("*.h5")} == before


@pytest.mark.parametrize("run", RUNS)
def test_a_run_is_written_as_it_was(run: str, tmp_path: Path) -> None:
    before = Path("runs", run)
    again = open_run(before).save(tmp_path / "again")
    for path in before.glob("*.json"):
        expected = json.loads(path.read_text())
        if path.name == "run.json":
            expected.setdefault("training", None)  # not recorded by that version
        text = json.dumps(expected, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        assert (again / path.name).read_text() == text, path.name


@pytest.mark.parametrize("run", RUNS)
def test_a_run_scores_as_it_did(run: str, call: Call) -> None:
    recorded = json.loads(Path(f"runs/{run}/metrics.json").read_text())["splits"]["test"]
    status, shown, err = call("evaluate", f"runs/{run}", "--json")
    assert status == 0, err
    again = json.loads(shown)
    again = again.get("metrics", again)
    for score in ("overall", "mean_per_class", "nll"):
        assert again[score] == pytest.approx(recorded[score], rel=1e-4), score


def test_the_ensemble_is_what_the_same_command_makes(call: Call) -> None:
    before = {path.name: _numbers(path) for path in Path("ensemble").iterdir()}
    status, _, err = call("ensemble", "runs/ce", "zero-shot", "--out", "ensemble")
    assert status == 0, err
    after = {path.name: _numbers(path) for path in Path("ensemble").iterdir()}
    assert after.keys() == before.keys()
    for name, (words, numbers) in before.items():
        assert after[name][0] == words, name
        # the last digits are those of the processor's products
        assert after[name][1] == pytest.approx(numbers, rel=1e-5, abs=1e-7), name


def _numbers(path: Path) -> tuple[list[str], list[float]]:
    """Return what a file of JSON says between its numbers, and these."""
    parts = re.split(r"(-?\d+\.\d+(?:e-?\d+)?)", path.read_text())
    return parts[::2], [float(number) for number in parts[1::2]]


def test_an_ablation_goes_on_without_fitting_again(call: Call) -> None:
    heads = {path: path.stat().st_mtime_ns for path in Path("ablation").rglob("*.safetensors")}
    again = ("--methods", "ce,crt", "--seeds", "2", "--workers", "1", *QUICK)
    status, _, err = call("ablate", "cache", *again, "--out", "ablation")
    assert status == 0, err
    assert len(heads) == 4
    assert {p: p.stat().st_mtime_ns for p in Path("ablation").rglob("*.safetensors")} == heads
    assert call("report", "ablation")[0] == 0


def test_a_retrieval_opens_with_its_decisions_and_trains(call: Call, tmp_path: Path) -> None:
    result = open_retrieved("retrieved")
    assert [one.decision for one in result.record.decisions].count("accept") == 1
    decided = ("review", "retrieved", "--decisions", "decisions.json")
    assert call(*decided)[0] == 0
    extra = ("--extra", "retrieved", "--extra-weight", "p", "--out", tmp_path / "run")
    status, _, err = call("fit-adapter", "cache", "--method", "ce", *extra, *QUICK)
    assert status == 0, err


def test_an_index_gives_the_candidates_that_it_gave(call: Call, tmp_path: Path) -> None:
    retrieve = ("retrieve-tail", "cache", "pool-cache", "--per-class", "3", "--threshold", "0")
    status, _, err = call(*retrieve, "--out", tmp_path / "r", "--index", "index",
                          "--without-guard", "margin", "--group", "few")  # fmt: skip
    assert status == 0, err
    keys = {
        place: sorted(open_retrieved(place).table["key"].to_pylist())
        for place in ("retrieved", str(tmp_path / "r"))
    }
    assert keys["retrieved"] == keys[str(tmp_path / "r")]


@pytest.mark.parametrize("tuning", TUNINGS)
def test_a_checkpoint_is_the_encoder_that_it_was(tuning: str, call: Call) -> None:
    record = json.loads(Path(tuning, "ltcache.json").read_text())
    encoder = load_encoder(f"local-dir:{tuning}", device="cpu")
    assert json.loads(json.dumps(encoder.identity)) == record["identity"]
    assert Path(tuning, "open_clip_config.json").exists() == (tuning == "full")
    tuned = open_fine_tuned(tuning, device="cpu")
    assert json.loads(json.dumps(tuned.record.to_dict())) == record["record"]
    status, shown, err = call("finetune", "images", "--method", tuning, *MODEL, "--out", tuning,
                              "--workers", "0", *QUICK)  # fmt: skip
    assert status == 0, shown + err
