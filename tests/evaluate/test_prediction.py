"""Predictions for new images: equal to what a cache gives, in any container, whatever is broken."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ltcache.cache import open_cache
from ltcache.cli import main
from ltcache.encoder import EncoderChoice, load_encoder
from ltcache.errors import IdentityError, ImageError, UsageError
from ltcache.evaluate.prediction import Prediction, predict, probabilities_of
from ltcache.extract import extract
from ltcache.fit import fit_adapter
from ltcache.images.inputs import inputs
from ltcache.process import threads_of_passes
from ltcache.runs.run import Run, open_run
from tests.conftest import write_images
from tests.encoder.tiny_models import write_tiny_clip

NAMES = ("blue jay", "moth", "newt")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("birds")
    for split, counts in {"train": (30, 9, 4), "test": (6, 5, 3)}.items():
        write_images(root / split, dict(zip(NAMES, counts, strict=True)))
    return root


@pytest.fixture(scope="module")
def model(tiny_clip: Path) -> str:
    return f"local-dir:{tiny_clip}"


@pytest.fixture(scope="module")
def encoder(model: str) -> Any:
    return load_encoder(model, device="cpu")


@pytest.fixture(scope="module")
def cache(images: Path, encoder: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("predict") / "cache"
    extract(images, out, encoder=encoder)
    return open_cache(out)


@pytest.fixture(scope="module")
def run(cache: Any) -> Run:
    return _run(cache, "ce")


def _run(cache: Any, method: str, out: Path | None = None, **overrides: Any) -> Run:
    return fit_adapter(cache, method, out, overrides={"optimisation.epochs": 4, **overrides})


@pytest.mark.parametrize(
    ("method", "overrides"),
    [
        ("ce", {}),
        ("lift-lp", {}),
        ("ce", {"feature.field": "embedding", "feature.transform": "center_l2"}),
    ],
)
def test_predictions_are_those_of_the_cache(
    images: Path, encoder: Any, cache: Any, method: str, overrides: dict[str, Any]
) -> None:
    run = _run(cache, method, **overrides)
    features = cache.features("test", run.record.field)
    expected = probabilities_of(run.logits(features))
    found = list(predict(run, [images / "test"], encoder=encoder, batch_size=4, top=3))
    keys = [str(Path(p.image).relative_to(images)) for p in found]
    rows = cache.manifest.rows["key"].to_numpy()[cache.rows("test")].tolist()
    assert sorted(keys) == sorted(rows)
    for key, prediction in zip(keys, found, strict=True):
        row = expected[rows.index(key)]
        assert prediction.error is None
        assert prediction.labels[0] == row.argmax()
        assert np.allclose(prediction.probabilities, row[list(prediction.labels)], atol=2e-3)
        assert prediction.names == tuple(NAMES[label] for label in prediction.labels)
        assert sum(prediction.probabilities) == pytest.approx(1)
        assert list(prediction.probabilities) == sorted(prediction.probabilities, reverse=True)


def test_batches_and_workers_change_no_answer(images: Path, encoder: Any, run: Run) -> None:
    several = [
        list(predict(run, [images], encoder=encoder, batch_size=batch, workers=workers))
        for batch, workers in ((1, 1), (7, 3), (64, 2))
    ]
    for found in several[1:]:
        assert [p.image for p in found] == [p.image for p in several[0]]
        assert [p.labels for p in found] == [p.labels for p in several[0]]


def test_passes_at_once_change_no_answer_and_threads_are_those_of_the_run(
    images: Path, encoder: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = list(predict(run, [images], encoder=encoder, batch_size=2, strict=True))
    seen, encode = set(), encoder.encode_images

    def noted(*values: Any) -> Any:
        seen.add((threading.current_thread().name.split("_")[0], torch.get_num_threads()))
        return encode(*values)

    monkeypatch.setattr(encoder, "encode_images", noted)
    monkeypatch.setattr("ltcache.evaluate.prediction.passes_at_once", lambda _: 3)
    with threads_of_passes(2):  # a program's own
        several = list(predict(run, [images], encoder=encoder, batch_size=2, strict=True))
        assert torch.get_num_threads() == 2
    assert [vars(p) for p in several] == [vars(p) for p in alone]
    assert seen == {("encode", 1)}


def test_archives_hold_the_same_images(
    images: Path, encoder: Any, run: Run, tmp_path: Path
) -> None:
    files = sorted((images / "test").glob("*/*.png"))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for file in files:
            archive.write(file, file.relative_to(images))
        archive.writestr("notes.txt", "no image")
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as tar:
        for file in files:
            tar.add(file, str(file.relative_to(images)))
        tar.addfile(tarfile.TarInfo("notes.txt"))
    plain = [p.probabilities for p in predict(run, files, encoder=encoder)]
    for name in ("all.zip", "all.tar.gz"):
        with pytest.warns(UserWarning, match=r"1 file\(s\) are not images: .*notes\.txt"):
            found = list(predict(run, [tmp_path / name], encoder=encoder))
        assert [p.probabilities for p in found] == plain
        assert found[0].image == f"{tmp_path / name}/test/blue jay/000.png"


def test_one_bad_image_costs_its_own_row(
    images: Path, encoder: Any, run: Run, tmp_path: Path
) -> None:
    good = next((images / "test").glob("*/*.png"))
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:200])
    (tmp_path / "broken.zip").write_bytes(b"PK no zip")
    (tmp_path / "broken.tar").write_bytes(b"no tar" * 200)
    os.mkfifo(tmp_path / "pipe.png")
    bad = sorted(tmp_path.iterdir())
    named = [good, *bad, tmp_path / "missing.png", good]
    found = list(predict(run, named, encoder=encoder, batch_size=3))
    assert [p.image for p in found] == [str(path) for path in named]
    assert [p.error is None for p in found] == [True, *[False] * 7, True]
    assert found[0] == found[-1] and all(not p.labels for p in found[1:-1])
    errors = {Path(p.image).name: p.error for p in found}
    assert errors["missing.png"] == "No such file or directory"
    assert errors["empty.png"] == "empty file (0 bytes)"
    assert errors["pipe.png"] == "not a regular file"


def test_hostile_members_are_rows_with_errors(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../../etc/evil.png", b"x")
        archive.writestr("/abs.png", b"x")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
        data = tarfile.TarInfo("../up.png")
        data.size = 1
        tar.addfile(data, io.BytesIO(b"x"))
    found = list(inputs([tmp_path / "a.zip", tmp_path / "a.tar"]))
    reasons = ["leaves the root", "leaves the root", "not a plain file", "leads out"]
    for item, reason in zip(found, reasons, strict=True):
        with pytest.raises(ImageError, match=reason):
            item.read()


def test_names_that_no_file_can_have() -> None:
    for name in ("x" * 5000, "a\0b", "\udcff.png"):
        (item,) = inputs([name])
        with pytest.raises(ImageError):
            item.read()
    assert [item.name for item in inputs(["-"], ["a.png\r\n", "\n", "-\n", " b.png"])] == [
        "a.png",
        " b.png",
    ]


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ltcache.manifest.roots.limits.MAX_BYTES", 10)
    (tmp_path / "a.png").write_bytes(b"x" * 11)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "a.png")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "a.png", "a.png")
    for item in inputs([tmp_path / n for n in ("a.png", "a.zip", "a.tar")]):
        with pytest.raises(ImageError, match="11 bytes, more than 10"):
            item.read()


def test_images_are_taken_only_as_they_are_needed(images: Path, encoder: Any, run: Run) -> None:
    file = next((images / "test").glob("*/*.png"))
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            yield file

    stream = predict(run, endless(), encoder=encoder, batch_size=8, workers=2)
    for _, prediction in zip(range(30), stream, strict=False):
        assert isinstance(prediction, Prediction)
    assert taken < 30 + 3 * 8 + 10
    stream.close()  # type: ignore[attr-defined]


def test_another_encoder_is_refused_and_other_numerics_warn(
    images: Path, run: Run, encoder: Any, tmp_path: Path
) -> None:
    other = load_encoder(f"local-dir:{write_tiny_clip(tmp_path / 'other', seed=9)}", device="cpu")
    with pytest.raises(IdentityError, match=r"towers\.image"):
        predict(run, [images], encoder=other)
    assert list(predict(run, [images], encoder=other, allow_stale=["encoder"]))
    numerics = {**run.record.identities["numerics"], "device": "cuda"}
    identities = {**run.record.identities, "numerics": numerics}
    record = replace(run.record, identities=identities)
    changed = Run(run.method, run.head, run.transform, record)
    with pytest.warns(UserWarning, match="device"):
        predict(changed, [images], encoder=encoder)
    with pytest.raises(IdentityError, match="numerics") as caught:
        predict(changed, [images], encoder=encoder, strict=True)
    assert caught.value.exit_status == 4
    predict(run, [images], encoder=encoder, strict=True)


def test_the_encoder_is_found_by_the_record(cache: Any, tmp_path: Path) -> None:
    run = _run(cache, "ce", tmp_path / "run")
    assert run.record.provenance == cache.provenance
    with pytest.raises(UsageError, match="--model"):  # a record keeps no folders
        predict(run, [])
    # a run of before it was recorded: its cache says it
    record = replace(open_run(tmp_path / "run").record, provenance=None)
    with pytest.raises(UsageError, match="keeps no folders"):
        predict(Run(run.method, run.head, run.transform, record, path=tmp_path / "run"), [])
    record = replace(record, cache=None)
    with pytest.raises(UsageError, match="does not name its encoder"):
        predict(Run(run.method, run.head, run.transform, record), [])
    named = {"model": "ViT-B-32", "pretrained": "random:0", "activation": None}
    record = replace(record, provenance=named)
    with pytest.raises(IdentityError):
        predict(Run(run.method, run.head, run.transform, record), [])


@pytest.mark.parametrize("options", [{"top": 0}, {"batch_size": 0}])
def test_options_that_cannot_be_meant(run: Run, encoder: Any, options: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        predict(run, [], encoder=encoder, **options)  # type: ignore[arg-type]


def _call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return int(caught.value.code or 0), out, err


def test_the_command(
    images: Path,
    cache: Any,
    model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = tmp_path / "run"
    _run(cache, "ce", place)
    named = ("--model", model, "--device", "cpu", "--top", 2)
    test = images / "test"
    status, out, _ = _call(capsys, "predict", place, test, *named)
    assert status == 0 and len(out.splitlines()) == 2 + 2 * 14 and "%" in out
    bad = tmp_path / "bad, name.jpg"
    bad.write_text("x")
    paths = [*sorted(test.glob("*/*.png"))[:2], bad]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{path}\n\n" for path in paths)))
    status, out, err = _call(capsys, "predict", place, "-", *named, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 3 and "1 of 3 images" in err
    assert [row["image"] for row in rows] == [str(path) for path in paths]
    assert rows[0]["name_1"] in NAMES and rows[0]["error"] == ""
    assert rows[2]["label_1"] == "" and "not an image" in rows[2]["error"]
    status, out, _ = _call(capsys, "predict", place, test, *named, "--json")
    parsed = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and len(parsed[0]["labels"]) == 2 and parsed[0]["error"] is None
    (tmp_path / "nothing").mkdir()
    status, _, err = _call(capsys, "predict", place, tmp_path / "nothing", *named)
    assert status == 1 and "no images in" in err
    status, _, err = _call(capsys, "predict", place, test)
    assert status == 2 and "--model" in err
    assert "ltcache predict" in _call(capsys, "predict", "--help")[1]


@pytest.mark.parametrize("eval_view", ["five", "rrc:3"])
def test_a_run_predicts_on_the_crops_it_is_evaluated_on(
    images: Path,
    encoder: Any,
    model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    eval_view: str,
) -> None:
    out, where = tmp_path / "cache", tmp_path / "run"
    extract(images, out, encoder=encoder, views=("rrc:2", "five", "rrc:3"), view_seed=5)
    words = ["fit-adapter", str(out), "--method", "ce", "--out", str(where)]
    words += ["-s", "feature.view=rrc:2", "-s", f"feature.eval_view={eval_view}"]
    with pytest.raises(SystemExit) as end:
        main([*words, "-s", "optimisation.epochs=4"])
    assert not end.value.code, capsys.readouterr().err
    cache, run = open_cache(out), open_run(where)
    assert run.record.identities["view"]["name"] == eval_view
    features = cache.features("test", run.record.field, eval_view)
    assert features.shape[1] == cache.crops(eval_view)
    crops = [run.logits(features[:, [v]]) for v in range(features.shape[1])]
    expected = probabilities_of(np.mean(crops, axis=0))
    found = list(
        predict(where, [images / "test"], encoder=EncoderChoice(model), batch_size=4, top=3)
    )
    rows = cache.manifest.rows["key"].to_numpy()[cache.rows("test")].tolist()
    for prediction in found:
        row = expected[rows.index(str(Path(prediction.image).relative_to(images)))]
        assert np.allclose(prediction.probabilities, row[list(prediction.labels)], atol=2e-3)
    assert len(found) == len(rows)
