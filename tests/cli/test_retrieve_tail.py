"""``ltcache retrieve-tail`` as a person types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ltcache.cache import open_cache
from ltcache.cli import main
from ltcache.cli import retrieve_tail as module
from ltcache.retrieval import RetrievalSettings, open_retrieved
from ltcache.retrieval.record import RetrievalRecord
from ltcache.retrieval.review.gallery import write_gallery
from tests.retrieval.conftest import CLASSES, World

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Return a function that runs the command and gives status, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(["retrieve-tail", *(str(argument) for argument in arguments)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(caught.value.code or 0), out, err

    return run


@pytest.fixture
def caches(tmp_path: Path) -> tuple[Path, Path]:
    """Return a labelled cache and a pool."""
    world = World(tmp_path)
    cache = world.labelled()
    return cache.path, world.pool(cache, np.repeat(np.arange(CLASSES), 20)).path


def test_it_retrieves_and_says_what_it_did(
    call: Call, caches: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "r"
    status, text, _ = call(*caches, "--out", out, "--per-class", 5)
    assert status == 0
    assert "15 images for 3 classes" in text
    assert "p_k >= 0.5 (fixed)" in text
    assert f"look at them: ltcache review {out} {caches[0]}" in text
    record = json.loads((out / "retrieve.json").read_text())
    assert record["settings"]["per_class"] == 5
    assert record["settings"]["tau"] == pytest.approx(1 / 20)
    assert record["settings"]["false_alarm"] == RetrievalSettings().false_alarm
    status, text, _ = call(*caches, "--out", out, "--up-to", 8, "--overwrite", "--json")
    assert status == 0
    assert [entry["quota"] for entry in json.loads(text)["classes"]] == [0, 2, 4]
    calibrated = ("--to-precision", 0.9, "--group", "few", "--group", "medium")
    status, text, _ = call(*caches, "--out", tmp_path / "r2", *calibrated)
    assert status == 0
    assert "training images)" in text


def test_a_class_without_candidates_ends_as_zero_and_a_fit_goes_on(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path)
    cache = world.labelled()
    pool = world.pool(cache, np.r_[np.zeros(30, np.int64), 5])  # nothing for classes 3 and 4
    status, text, err = call(cache.path, pool.path, "--out", tmp_path / "r", "--per-class", 2)
    assert (status, err) == (0, "")
    assert "1 image for 3 classes" in text
    lines = {line.split("|")[1].strip(): line.split("|") for line in text.splitlines()[2:5]}
    assert [lines[f"{c} class {c}"][4].strip() for c in (3, 4, 5)] == ["0", "0", "1"]
    assert "threshold" in lines["3 class 3"][5]
    record = json.loads((tmp_path / "r" / "retrieve.json").read_text())
    assert [entry["accepted"] for entry in record["classes"]] == [0, 0, 1]
    none = ("--labels", "3,4", "--per-class", 2, "--out", tmp_path / "none")
    status, text, err = call(cache.path, pool.path, *none)
    assert (status, "0 images for 2 classes" in text) == (0, True)
    assert "no image was taken" in err
    short = ("-s", "optimisation.epochs=2", "--out", str(tmp_path / "run"))
    with pytest.raises(SystemExit) as ended:
        main(["fit-adapter", str(cache.path), "--extra", str(tmp_path / "none"), *short])
    assert ended.value.code in (0, None), capsys.readouterr().err
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["extra"]["rows"] == 0
    assert run["effective_counts"] == run["class_counts"]


def test_retrieved_images_take_part_in_tuning_in_auto_and_in_an_ablation(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    cache = world.labelled()
    pool = world.pool(cache, np.r_[np.full(10, 4), np.full(10, 5)])
    assert call(cache.path, pool.path, "--out", tmp_path / "r", "--per-class", 4)[0] == 0
    monkeypatch.setattr("ltcache.ablate.auto.SHORT_LIST", ("ncm", "gda"))
    fit = ("fit-adapter", cache.path, "--extra", tmp_path / "r", "--extra-weight", "p", "--out")
    grid = ("--method", "ncm", "--tune", "--grid", "feature.transform=none,l2")
    compared = ("ablate", cache.path, "--methods", "ncm", "--seeds", 1, "--out", tmp_path / "a")
    for arguments in (
        (*fit, tmp_path / "tuned", *grid),
        (*fit, tmp_path / "auto", "--method", "auto"),
        (*compared, "--extra", tmp_path / "r", "--extra-weight", "p"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        assert ended.value.code in (0, None)
    extra = json.loads((tmp_path / "tuned" / "run.json").read_text())["extra"]
    assert extra["rows"] > 0
    assert json.loads((tmp_path / "auto" / "run.json").read_text())["extra"] == extra
    assert json.loads((tmp_path / "a" / "results.json").read_text())["extra"] == extra
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in compared])
    assert ended.value.code == 2


def test_an_index_is_saved_and_used_again(
    call: Call, caches: tuple[Path, Path], tmp_path: Path
) -> None:
    keep = tmp_path / "index"
    made = ("--index", "auto", "--save-index", keep)
    status, first, err = call(*caches, "--out", tmp_path / "a", *made)
    assert status == 0
    assert "products with all of them cost less" in err
    status, second, _ = call(*caches, "--out", tmp_path / "b", "--index", keep)
    assert status == 0
    assert first.splitlines()[:-2] == second.splitlines()[:-2]


def test_what_is_wrong_is_said_with_a_status(
    call: Call, caches: tuple[Path, Path], tmp_path: Path
) -> None:
    cache, pool = caches
    out = ("--out", tmp_path / "r")
    for status, text, arguments in (
        (2, "give CACHE, POOL and --out", (cache,)),
        (
            2,
            "--labels has no effect with --max-count",
            (cache, pool, *out, "--max-count", 5, "--labels", "1"),
        ),
        (2, "--labels a", (cache, pool, *out, "--labels", "a")),
        (2, "--up-to x", (cache, pool, *out, "--up-to", "x")),
        (
            2,
            "--to-precision has no effect with --threshold",
            (cache, pool, *out, "--threshold", 0.1, "--to-precision", 0.9),
        ),
        (2, "no such device", (cache, pool, *out, "--device", "tpu")),
        (2, "--save-index", (cache, pool, *out, "--save-index", tmp_path / "i")),
        (2, "no index here", (cache, pool, *out, "--index", tmp_path)),
        (2, "is no result", (cache, pool, "--out", cache)),
        (1, "not a feature cache", (cache, tmp_path, *out)),
        (1, "no prompts 'x'", (cache, pool, *out, "--prompts", "x")),
    ):
        found, _, err = call(*arguments)
        assert (found, text in err) == (status, True), (arguments, err)
    assert not (tmp_path / "r").exists()


def test_parts_as_a_person_types_them(
    call: Call, caches: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, asked = tmp_path / "my parts", ("--per-class", 5, "--per-source", 2)
    status, whole, _ = call(*caches, "--out", tmp_path / "whole", *asked)
    assert status == 0
    status, text, err = call(*caches, "--part", "2/2", "--out", parts, *asked)
    assert (status, err) == (0, "")
    merge = f"ltcache retrieve-tail --merge '{parts}' --out RETRIEVED"
    assert text == f"{parts}/part-2-of-2.npz: when all parts are there: {merge}\n"
    out = ("--out", tmp_path / "r")
    status, _, err = call("--merge", parts, *out)
    assert (status, "of 2 parts, these are missing: 1" in err) == (2, True)
    assert not (tmp_path / "r").exists()
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    status, text, _ = call(*caches, "--part", "auto", "--out", parts, *asked, "--json")
    assert (status, json.loads(text)) == (0, {"path": str(parts / "part-1-of-2.npz")})
    status, text, err = call("--merge", *sorted(parts.iterdir()), *out)
    assert (status, err) == (0, "")
    assert text.splitlines()[:-2] == whole.splitlines()[:-2]
    assert f"ltcache review {tmp_path / 'r'} {caches[0]}" in text  # a command that can be typed
    both = [tmp_path / name / "retrieved.parquet" for name in ("r", "whole")]
    assert both[0].read_bytes() == both[1].read_bytes()
    for status, said, words in (
        (2, "--margin has no effect with --merge", ("--merge", parts, *out, "--margin", 1)),
        (2, "give what --part has written", ("--merge", parts)),
        (2, "holds no part", ("--merge", caches[0], *out)),
        (2, "part '3/2'", (*caches, "--part", "3/2", "--out", parts)),
    ):
        found, _, err = call(*words)
        assert (found, said in err) == (status, True), err


def test_another_encoder_ends_with_status_four(
    call: Call, caches: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = World(tmp_path / "other", seed=5)
    pool = other.pool(other.labelled(), np.arange(CLASSES))
    status, _, err = call(caches[0], pool.path, "--out", tmp_path / "r")
    assert status == 4
    assert "the encoder differs" in err


def test_help_teaches_and_shows_no_former_spelling(call: Call) -> None:
    status, out, _ = call("--help")
    assert status == 0
    assert "ltcache retrieve-tail cache pool --out retrieved" in out
    assert "ltcache review retrieved cache" in out
    assert not any(
        option in out for option in ("--text", "--apply", "--gallery", "--decisions", "--tsne")
    )


def test_guards_that_were_off_are_not_told_as_in_force(
    call: Call, caches: tuple[Path, Path], tmp_path: Path
) -> None:
    cache, pool = caches
    plain = (cache, pool, "--out", tmp_path / "r", "--per-class", 5)
    status, text, _ = call(*plain, "--without-guard", "threshold")
    assert status == 0 and "p_k >=" not in text and "any p_k (guard off)" in text
    assert "near duplicates calibrated on" in text
    result = open_retrieved(tmp_path / "r")
    assert result.record.thresholds.p is None
    write_gallery(result, open_cache(cache), out=tmp_path / "page.html")
    assert "images are taken whatever their p_k" in (tmp_path / "page.html").read_text()
    # earlier versions wrote down a value that was not asked for
    before = json.loads((tmp_path / "r" / "retrieve.json").read_text())
    before["thresholds"]["p"] = {
        "value": 0.5, "precision": None, "reached": None, "support": None,
    }  # fmt: skip
    assert RetrievalRecord.from_dict(before).least_p is None
    status, text, _ = call(*plain, "--overwrite", "--without-guard", "all")
    assert status == 0 and "near duplicates not looked for (guards off)" in text


def test_parts_under_a_launcher_have_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    monkeypatch.setattr(
        "ltcache.retrieval.retrieve_part", lambda *_, device, **more: taken.append(device)
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    for name, value in (("RANK", "6"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "2")):
        monkeypatch.setenv(name, value)
    for device in ("cuda", "cuda:1", "cpu"):
        options = {"device": device, "allow_stale": ()}
        module._retrieve_part(None, (), "auto", Path("parts"), None, options)  # type: ignore[arg-type]
    assert taken == ["cuda:2", "cuda:1", "cpu"]
