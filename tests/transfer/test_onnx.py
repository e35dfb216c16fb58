"""Runs as ONNX files: ONNX Runtime alone gives the probabilities of ``predict``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ltcache.encoder import Encoder, load_encoder
from ltcache.errors import FitError, IdentityError, UsageError
from ltcache.evaluate.prediction import predict
from ltcache.extract import extract
from ltcache.fit import fit_adapter
from ltcache.images import decode
from ltcache.runs.run import Run
from ltcache.transfer import export_onnx
from tests.conftest import Call, write_images

onnxruntime = pytest.importorskip("onnxruntime")
SHORT = {"optimisation.epochs": 3}
METHODS = {"linear": "ce", "cosine": "lift-lp"}
Fitted = tuple[Encoder, dict[str, Run]]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_images(tmp_path_factory.mktemp("onnx"), {"red fox": 8, "moth": 5, "newt": 3})
    Image.open(root / "newt" / "000.png").resize((90, 61)).save(root / "newt" / "wide.png")
    Image.open(root / "newt" / "001.png").convert("L").save(root / "newt" / "grey.png")
    return root


def _fitted(source: str, images: Path, folder: Path) -> Fitted:
    encoder = load_encoder(source, device="cpu")
    extract(images, folder, encoder=encoder)
    return encoder, {head: fit_adapter(folder, m, overrides=SHORT) for head, m in METHODS.items()}


@pytest.fixture(scope="module")
def embedded(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return _fitted("embedded", images, tmp_path_factory.mktemp("embedded") / "cache")


@pytest.fixture(scope="module")
def tiny(images: Path, tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return _fitted(f"local-dir:{tiny_clip}", images, tmp_path_factory.mktemp("tiny") / "cache")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Run, Encoder], Path]:
    """Return a function that exports a run once."""
    written: dict[str, Path] = {}

    def export(run: Run, encoder: Encoder) -> Path:
        if run.key not in written:
            out = tmp_path_factory.mktemp("exported") / "onnx"
            written[run.key] = export_onnx(run, out, encoder=encoder)
        return written[run.key]

    return export


def _run(folder: Path, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    logits, probabilities = session.run(["logits", "probabilities"], {"pixels": pixels})
    return logits, probabilities


def _expected(run: Run, files: list[Path], encoder: Encoder) -> np.ndarray:
    """Return ``predict``'s probabilities in label order, (N, C)."""
    table = np.zeros((len(files), len(run.class_names)))
    for row, found in enumerate(predict(run, files, top=99, encoder=encoder)):
        table[row, list(found.labels)] = found.probabilities
    return table


# an export takes seconds, the embedded tower's most: it is the same graph whatever head follows
@pytest.mark.parametrize(
    ("source", "head"), [("embedded", "linear"), ("tiny", "linear"), ("tiny", "cosine")]
)
def test_onnx_runtime_gives_the_probabilities_of_predict(
    source: str,
    head: str,
    images: Path,
    exported: Callable[[Run, Encoder], Path],
    request: pytest.FixtureRequest,
) -> None:
    encoder, runs = request.getfixturevalue(source)
    run = runs[head]
    out = exported(run, encoder)
    record = json.loads((out / "model.json").read_text())
    assert record["classes"] == list(run.class_names) == ["moth", "newt", "red fox"]
    assert record["identities"]["encoder"] == encoder.identity
    assert record["preprocessing"] == encoder.preprocessing.to_dict()
    assert record["difference_from_predict"] <= 1e-4
    files = sorted(images.rglob("*.png"))
    decoded = np.stack([decode(f.read_bytes(), encoder.preprocessing).pixels for f in files])
    mean, std = (np.array(record["preprocessing"][k], np.float32) for k in ("mean", "std"))
    pixels = (decoded / np.float32(255) - mean[:, None, None]) / std[:, None, None]
    expected = _expected(run, files, encoder)
    for count in (1, 3, len(files)):  # any batch
        logits, probabilities = _run(out, pixels[:count])
        assert np.abs(probabilities - expected[:count]).max() <= 1e-4
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        assert np.allclose(probabilities, shifted / shifted.sum(axis=1, keepdims=True), atol=1e-6)
    data = (out / "model.onnx").read_bytes()
    assert b"site-packages" not in data and b".py" not in data  # no places of this machine


def test_the_script_needs_neither_ltcache_nor_torch(
    images: Path, tiny: Fitted, exported: Callable[[Run, Encoder], Path], tmp_path: Path
) -> None:
    encoder, runs = tiny
    script = exported(runs["cosine"], encoder) / "classify.py"
    files = [images / "newt" / name for name in ("wide.png", "grey.png", "000.png")]
    code = (
        "import sys, runpy\n"
        "for name in ('ltcache', 'torch', 'open_clip'): sys.modules[name] = None\n"
        f"sys.argv = ['classify.py', *{[str(file) for file in files]!r}]\n"
        f"runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    found = predict(runs["cosine"], files, encoder=encoder)
    for line, expected in zip(result.stdout.splitlines(), found, strict=True):
        name, *answers = line.split("\t")
        assert name == expected.image
        pairs = [answer.rpartition("=") for answer in answers]
        assert [pair[0] for pair in pairs] == list(expected.names)
        assert [float(p[2]) for p in pairs] == pytest.approx(expected.probabilities, abs=1e-4)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(32, 32), (32, 24)])
@pytest.mark.parametrize("share", [None, 0.875])
def test_the_script_preprocesses_as_ltcache(
    mode: str, size: tuple[int, int], share: float | None
) -> None:
    from ltcache.images import Preprocessing
    from ltcache.transfer.onnx_file import _SCRIPT

    share = None if mode == "longest" else share
    cfg = Preprocessing(size, (0.5,) * 3, (0.5,) * 3, "bilinear", mode, 9, share)
    functions = _SCRIPT[_SCRIPT.index("def fitted") : _SCRIPT.index("def pixels")]
    found: dict[str, Any] = {}
    exec("from PIL import Image, ImageOps\n" + functions, found)
    rng = np.random.default_rng(0)
    for width, height in ((32, 32), (50, 20), (20, 50), (7, 90), (33, 32), (31, 64)):
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        ours = found["fitted"](image, *size, mode, Image.Resampling.BILINEAR, 9, share)
        assert ours.tobytes() == cfg.geometry(image).tobytes()


def test_what_cannot_be_exported_leaves_nothing(
    tiny: Fitted,
    exported: Callable[[Run, Encoder], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder, runs = tiny
    run = runs["linear"]
    whole = exported(run, encoder) / "model.onnx"
    with monkeypatch.context() as patch:
        patch.setitem(run.record.identities, "encoder", {"towers": {"image": "x"}})
        with pytest.raises(IdentityError):
            export_onnx(run, tmp_path / "a", encoder=encoder)
    with monkeypatch.context() as patch:
        patch.setattr(type(run.head), "forward", lambda self, x: x.tolist())
        with pytest.raises(FitError, match="cannot be written as ONNX.*--format bundle"):
            export_onnx(run, tmp_path / "a", encoder=encoder)
    with monkeypatch.context() as patch:
        patch.setattr("ltcache.transfer.onnx_file.TOLERANCE", -1.0)
        patch.setattr(
            "ltcache.transfer.onnx_file._write_model", lambda *a: shutil.copy(whole, a[2])
        )
        with pytest.raises(FitError, match="differ from the run's"):
            export_onnx(run, tmp_path / "a", encoder=encoder)
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=r"onnx and onnxruntime: pip install '\.\[onnx\]'"):
        export_onnx(tmp_path / "run", tmp_path / "out")


def test_the_command(
    tiny: Fitted,
    tiny_clip: Path,
    exported: Callable[[Run, Encoder], Path],
    tmp_path: Path,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder, runs = tiny
    run = runs["linear"]
    whole = exported(run, encoder) / "model.onnx"
    monkeypatch.setattr(
        "ltcache.transfer.onnx_file._write_model", lambda *a: shutil.copy(whole, a[2])
    )
    run.save(tmp_path / "run")
    named = ("--model", f"local-dir:{tiny_clip}")
    arguments = ("export", tmp_path / "run", "--format", "onnx", "--out", tmp_path / "o", *named)
    status, out, err = call(*arguments)
    assert (status, err) == (0, "") and "model.onnx" in out
    assert {p.name for p in (tmp_path / "o").iterdir()} == {
        "model.onnx", "model.json", "classify.py", "README.md",
    }  # fmt: skip
    status, _, err = call(*arguments)
    assert status == 2 and "exists already" in err
    status, _, err = call("export", tmp_path / "run", "--format", "hf", "--out", tmp_path / "h")
    assert status == 2 and "is a run: it is exported as bundle or onnx, not hf" in err
