"""Generated broken inputs: whatever a file holds, it is used or refused in one message.

Valid files of every kind are damaged by seed: bytes flipped, cut, doubled and spliced, fields
exchanged for hostile ones. Nothing may raise but the family of LtcacheError; a refusal names the
file and has an exit status; no row is lost; nothing is left behind.

    python -m tests.test_broken_inputs --count 2000
"""

from __future__ import annotations

import argparse
import bz2
import collections
import functools
import gzip
import io
import json
import lzma
import shutil
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from ltcache.cache import open_cache
from ltcache.cache.verify import verify_files
from ltcache.cli import main as ltcache
from ltcache.encoder import load_encoder
from ltcache.errors import ImageError, LtcacheError
from ltcache.extract import extract
from ltcache.images import Preprocessing, decode, open_store
from ltcache.images.inputs import inputs
from ltcache.manifest import missing_files, read_manifest
from ltcache.manifest.names import read_classes
from ltcache.texts.sentences import read_class_sentences, read_templates
from ltcache.transfer import export_cache, import_features
from tests.images import odd

COUNT = 400
"""Broken inputs in the suite; by hand 2,000."""

Generator = np.random.Generator
CFG = Preprocessing((16, 16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

HOSTILE_PATHS = (
    "../x.png", "/etc/passwd", "a/../../x.png", "C:/x.png", "file:///etc/passwd", "", ".", "\x00",
    "x" * 5000, "a\\..\\..\\x", "s3://bucket/x", "\ud800", "a\nb.png", "ünï/x.png", "~/x", "-", "*",
)  # fmt: skip
HOSTILE_VALUES: tuple[Any, ...] = (
    -2, 10**30, 1.5, float("nan"), float("inf"), True, None, "", "nan", [], {}, [[[]]], {"a": {}},
    "0x1", "1e3", "\ud800", "__import__('os')", "{}", "{0.__class__}", "%s", "x" * 10_000, "١",
)  # fmt: skip


def damaged(data: bytes, rng: Generator) -> bytes:
    """Return ``data`` after one to three accidents."""
    for _ in range(rng.integers(1, 4)):
        data = _accident(data, rng)
    return data


def _accident(data: bytes, rng: Generator) -> bytes:
    at = int(rng.integers(0, len(data) + 1))
    to = min(len(data), at + int(rng.integers(1, 64)))
    match int(rng.integers(0, 6)):
        case 0:
            return data[:at]
        case 1:
            flipped = bytearray(data)
            for position in rng.integers(0, max(1, len(data)), 4):
                if data:
                    flipped[int(position)] ^= 1 << int(rng.integers(0, 8))
            return bytes(flipped)
        case 2:
            return data[:at] + data[to:]
        case 3:
            return data[:at] + data[at:to] * 3 + data[to:]
        case 4:
            return data[:at] + rng.bytes(int(rng.integers(1, 40))) + data[to:]
        case _:
            return data[:at] + b"\xff" * (to - at) + data[to:]


def _pick(values: Any, rng: Generator) -> Any:
    return values[int(rng.integers(0, len(values)))]


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def a_list(rng: Generator) -> tuple[str, bytes]:
    """Return a ``path label`` list, a CSV or a JSON Lines file with a hostile field or damage."""
    form = _pick(("train.txt", "train.csv", "train.tsv", "train.jsonl"), rng)
    rows: list[list[Any]] = [[f"a b/{i}.png", int(i % 3)] for i in range(6)]
    if rng.random() < 0.7:
        _pick(rows, rng)[0] = _pick(HOSTILE_PATHS, rng)
    if rng.random() < 0.7:
        _pick(rows, rng)[1] = _pick(HOSTILE_VALUES, rng)
    if form.endswith("txt"):
        text = "\n".join(f"{path} {label}" for path, label in rows)
    elif form.endswith("jsonl"):
        text = "\n".join(json.dumps({"path": path, "label": label}) for path, label in rows)
    else:
        separator = "," if form.endswith("csv") else "\t"
        header = _pick(("path,label", "label,path", "path,path", "x,y", "path"), rng)
        lines = [header.replace(",", separator)]
        text = "\n".join(lines + [f"{path}{separator}{label}" for path, label in rows])
    data = _encode(text)
    return form, damaged(data, rng) if rng.random() < 0.5 else data


def a_parquet(rng: Generator) -> tuple[str, bytes]:
    """Return a Parquet file of paths or of images, damaged or of odd types."""
    png = odd.encoded(odd.picture(8, 8))
    columns: dict[str, Any] = _pick(
        (
            {"path": ["a.png", "b.png"], "label": [0, 1]},
            {"image": [{"bytes": png, "path": "x"}] * 3, "label": [0, 1, 2]},
            {"image": [png, b"", b"text"], "label": ["a", "b", None]},
            {"image": [{"bytes": None, "path": "/etc/passwd"}], "label": [0]},
            {"image": [[1, 2], [3]], "label": [0, 1]},
            {"path": [b"a", b"b"], "label": [0.5, 1.0]},
            {"path": ["a", None], "label": [10**18, -5]},
            {},
        ),
        rng,
    )
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    data = buffer.getvalue()
    return "train.parquet", damaged(data, rng) if rng.random() < 0.7 else data


def a_tar(rng: Generator) -> tuple[str, bytes]:
    """Return a tar file with hostile members or damage."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=int(rng.integers(0, 3))) as archive:
        for number in range(4):
            for suffix, data in (("png", odd.encoded(odd.picture(8, 8))), ("cls", b"1")):
                archive.addfile(*_member(f"{number}.{suffix}", data, rng))
    data = buffer.getvalue()
    return "train.tar", damaged(data, rng) if rng.random() < 0.5 else data


def _member(name: str, data: bytes, rng: Generator) -> tuple[tarfile.TarInfo, io.BytesIO]:
    info = tarfile.TarInfo(name)
    if rng.random() < 0.08:
        info.name = _pick([p for p in HOSTILE_PATHS if "\ud800" not in p and len(p) < 90], rng)
    if rng.random() < 0.08:
        info.type = _pick(
            (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE), rng
        )
        info.linkname, data = "/etc/passwd", b""
    if rng.random() < 0.1:
        data = _encode(str(_pick(HOSTILE_VALUES, rng)))
    info.size = len(data)
    return info, io.BytesIO(data)


def a_zip(rng: Generator) -> tuple[str, bytes]:
    """Return a zip file with hostile members or damage."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            archive.writestr(f"class {number % 2}/{number}.png", odd.encoded(odd.picture(8, 8)))
        if rng.random() < 0.5:
            name = _pick([p for p in HOSTILE_PATHS if p.strip("\0") and "\ud800" not in p], rng)
            archive.writestr(name + ".png", b"x")
    data = buffer.getvalue()
    return "images.zip", damaged(data, rng) if rng.random() < 0.7 else data


def a_card(rng: Generator) -> tuple[str, bytes]:
    """Return a ``dataset.json`` with a hostile field or damage."""
    card: dict[str, Any] = {
        "name": "birds", "templates": ["a photo of a {}."], "groups": {"many": 100, "few": 20},
        "lists": {"train": "train.csv"}, "images": ".", "sha256": {"train.csv": "0" * 64},
    }  # fmt: skip
    if rng.random() < 0.5:
        del card["sha256"]
    for _ in range(rng.integers(0, 3)):
        key = _pick(sorted(card), rng)
        hostile = _pick((*HOSTILE_VALUES, *HOSTILE_PATHS), rng)
        card[key] = _pick((hostile, [hostile], {"train": hostile}, {str(hostile): "x"}), rng)
    data = _encode(json.dumps({str(k): v for k, v in card.items()}, default=str))
    return "dataset.json", damaged(data, rng) if rng.random() < 0.4 else data


def a_text_file(rng: Generator) -> tuple[str, bytes]:
    """Return class names, templates or descriptions, in text, CSV or JSON."""
    hostile = _pick(HOSTILE_VALUES, rng)
    values: Any = _pick(
        (
            ["ant", hostile], {"0": "ant", "1": hostile}, {"birds": ["ant", "bee"], "x": hostile},
            {"ant": ["a small ant", hostile], "bee": ["a bee"]}, {"0": [hostile], "1": []}, hostile,
            ["a photo of a {}.", hostile], [["n1", "ant"], ["n2", hostile]],
        ),
        rng,
    )  # fmt: skip
    name = _pick(("classes.json", "templates.json", "classes.txt", "classes.csv", "t.txt"), rng)
    if name.endswith("json"):
        text = json.dumps(values)
    elif name.endswith("csv"):
        text = f"label,name,source_id\n0,ant,n1\n{hostile},{hostile},n2\n"
    else:
        text = f"ant\n{hostile}\na photo of a {{}}\n"
    data = _encode(text)
    return name, damaged(data, rng) if rng.random() < 0.5 else data


def a_description(rng: Generator) -> tuple[str, bytes]:
    """Return the ``descriptions.json`` of a manifest directory with a hostile field or damage."""
    sentences: dict[str, Any] = {"0": ["a small ant"], "1": ["a bee", "a wasp"], "2": ["a cat"]}
    for _ in range(rng.integers(0, 3)):
        hostile = _pick((*HOSTILE_VALUES, *HOSTILE_PATHS), rng)
        key = _pick((*sorted(sentences), "7", "-1", str(hostile)), rng)
        sentences[key] = _pick((hostile, [hostile], [[hostile]], {"x": hostile}, []), rng)
    data = _encode(json.dumps(sentences))
    return "descriptions.json", damaged(data, rng) if rng.random() < 0.4 else data


def some_arrays(rng: Generator) -> tuple[str, bytes]:
    """Return features to import, of odd shapes, types and values, or damaged."""
    rows = int(rng.integers(0, 7))
    features: Any = rng.normal(size=(rows, 4))
    features = _pick(
        (
            features, features.astype(np.float32), features.astype(np.float16), features[:, None],
            features.astype(">f4"), features * 1e300, features * np.nan, features[0:0], features.T,
            features.astype(int), features.astype(str), features[..., None, None], features.ravel(),
            np.float64(1.5), features * (np.arange(4) > 4), features.astype(complex),
        ),
        rng,
    )  # fmt: skip
    labels = _pick(
        (
            np.arange(rows) % 3, np.arange(rows) - 3, np.full(rows, 2**62), np.eye(7)[:rows],
            np.arange(rows) * 0.5, np.array(["a", "b"] * 4)[:rows], np.arange(rows + 1),
            np.full(rows, np.nan), np.arange(rows) > 2, np.array(1),
        ),
        rng,
    )  # fmt: skip
    names = _pick((("features", "labels"), ("train_features", "test_labels"), ("x", "text")), rng)
    arrays = dict(zip(names, (features, labels), strict=True))
    kind = _pick(tuple(_WRITERS), rng)
    data = _WRITERS[kind](arrays)
    return f"features.{kind}", damaged(data, rng) if rng.random() < 0.5 else data


def _npy(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, next(iter(arrays.values())))
    return buffer.getvalue()


def _npz(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _tensors(arrays: dict[str, Any]) -> dict[str, torch.Tensor]:
    plain = {name: np.asarray(array) for name, array in arrays.items()}
    return {
        name: torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))
        for name, array in plain.items()
        if array.dtype.kind in "fiub"
    }


def _pt(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save({**_tensors(arrays), "note": "text"}, buffer)
    return buffer.getvalue()


_WRITERS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "npy": _npy,
    "npz": _npz,
    "safetensors": lambda arrays: safetensors.torch.save(_tensors(arrays)),
    "pt": _pt,
}


def an_export(rng: Generator) -> tuple[str, bytes]:
    """Return one file of an export of ltcache, damaged or with a hostile value in its JSON."""
    name, data = _pick(sorted(_exported().items()), rng)
    if name.endswith(".json") and rng.random() < 0.5:
        value = json.loads(data)
        key = _pick(sorted(value), rng)
        value[key] = _pick((*HOSTILE_VALUES, *HOSTILE_PATHS), rng)
        return name, _encode(json.dumps(value))
    return name, damaged(data, rng)


@functools.cache
def _exported() -> dict[str, bytes]:
    """Return the files of a small export by name."""
    with tempfile.TemporaryDirectory() as folder:
        source, rng = Path(folder), np.random.default_rng(0)
        text = rng.normal(size=(3, 4)).astype(np.float32)
        features = rng.normal(size=(6, 4)).astype(np.float32)
        np.savez(source / "a.npz", features=features, labels=np.arange(6) % 3, text=text)
        import_features(source / "a.npz", source / "cache")
        export_cache(source / "cache", source / "out")
        return {file.name: file.read_bytes() for file in (source / "out").iterdir()}


def a_stream(rng: Generator) -> tuple[str, bytes]:
    """Return an archive as ``predict`` takes it: a tar, compressed or not, or a zip."""
    kind = _pick(("tar", "tar.gz", "tar.bz2", "tar.xz", "zip"), rng)
    if kind == "zip":
        return f"stream.{kind}", a_zip(rng)[1]
    data = a_tar(rng)[1]
    pack = {"tar": bytes, "tar.gz": gzip.compress, "tar.bz2": bz2.compress, "tar.xz": lzma.compress}
    data = pack[kind](data)
    return f"stream.{kind}", damaged(data, rng) if rng.random() < 0.3 else data


def an_image(rng: Generator) -> tuple[str, bytes]:
    """Return a damaged image of some kind."""
    name, data = _pick(sorted(IMAGES.items()), rng)
    return name, damaged(data, rng)


IMAGES = odd.readable()
KINDS: dict[str, Callable[[Generator], tuple[str, bytes]]] = {
    "image": an_image,
    "list": a_list,
    "parquet": a_parquet,
    "tar": a_tar,
    "zip": a_zip,
    "card": a_card,
    "text": a_text_file,
    "descriptions": a_description,
    "arrays": some_arrays,
    "export": an_export,
    "stream": a_stream,
}


def use(kind: str, path: Path) -> None:
    """Do with a file what ltcache would do with it."""
    if kind == "image":
        image = decode(open_store(path.parent).read(path.name), CFG)
        assert image.pixels.shape == (3, 16, 16) and image.pixels.dtype == np.uint8
    elif kind == "text":
        _use_text(path)
    elif kind in ("arrays", "export"):
        _use_features(path.parent / "export" if kind == "export" else path)
    elif kind == "stream":
        _use_stream(path)
    else:
        _use_source(path.parent if kind in ("card", "descriptions") else path)


def _use_features(path: Path) -> None:
    out = path.with_name("cache")
    report = import_features(path, out, shard_size=4)
    rows = open_cache(out).manifest.rows
    assert sum(report.rows.values()) == rows.num_rows > 0
    assert rows["status"].to_pylist().count("failed") == report.failed
    assert verify_files(out).ok
    shutil.rmtree(out)


def _use_stream(path: Path) -> None:
    """Every member is read or has a reason; an archive that ends early says so in a last one."""
    failed = 0
    for item in inputs([path]):
        try:
            assert isinstance(item.read(), bytes)
        except ImageError as error:
            assert str(error)
            failed += 1
    if failed:
        raise ImageError(f"{path.name}: {failed} members failed")


def _use_text(path: Path) -> None:
    match path.stat().st_size % 3:
        case 0:
            read_classes(path)
        case 1:
            read_templates(path)
        case _:
            read_class_sentences(path, ["ant", "bee"])


def _use_source(path: Path) -> None:
    manifest = read_manifest(path)
    rows = manifest.rows["uri"].to_pylist()
    assert len(rows) == len(manifest) and manifest.labels().max(initial=-1) < manifest.num_classes
    missing = missing_files(manifest)
    store = open_store(manifest.root)
    failed = 0
    for uri in rows:
        try:
            assert isinstance(store.read(uri), bytes)
        except ImageError:
            failed += 1
    assert failed >= missing.count


def outcome(kind: str, seed: int, folder: Path) -> str:
    """Return ``used`` or ``refused`` for one generated input; asserts that it is one of them."""
    rng = np.random.default_rng([seed, sorted(KINDS).index(kind)])
    name, data = KINDS[kind](rng)
    (folder / "train.csv").write_text("path,label\nimages/a.png,0\n")
    (folder / "classes.csv").write_text("label,name\n0,ant\n1,bee\n2,cat\n")
    (folder / "images").mkdir()
    (folder / "images" / "a.png").write_bytes(b"image")
    path = folder / name
    if kind == "export":
        (folder / "export").mkdir()
        for file, content in _exported().items():
            (folder / "export" / file).write_bytes(content)
        path = folder / "export" / name
    if kind == "descriptions":
        (folder / "dataset.json").write_text('{"name": "birds"}')
    path.write_bytes(data)
    before = sorted(file.name for file in folder.iterdir())
    refusal = None
    try:
        use(kind, path if kind != "export" else folder / name)
    except LtcacheError as error:
        refusal = error
    assert sorted(file.name for file in folder.iterdir()) == before
    if refusal is None:
        return "used"
    text = str(refusal)
    assert refusal.exit_status in (1, 2, 4)
    assert text and " at 0x" not in text and "Traceback" not in text, text
    if kind != "image":  # the row of an image bears its name
        named = name in text or folder.name in text or "birds" in text
        assert named or "the root '" in text, text
    return "refused"


def run(count: int) -> collections.Counter[tuple[str, str]]:
    """Try ``count`` inputs, of all kinds in turn; returns how often each outcome was seen."""
    seen: collections.Counter[tuple[str, str]] = collections.Counter()
    wrong = []
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        folder = Path(tempfile.mkdtemp(prefix="broken-"))
        try:
            seen[kind, outcome(kind, number, folder)] += 1
        except Exception as error:
            wrong.append(f"{kind}, seed {number}: {type(error).__name__}: {str(error)[:300]}")
        finally:
            shutil.rmtree(folder)
    assert not wrong, "\n".join([f"{len(wrong)} of {count}:", *wrong[:20]])
    return seen


def test_generated_broken_inputs() -> None:
    seen = run(COUNT)
    assert sum(seen.values()) == COUNT
    for kind in KINDS:
        assert seen[kind, "refused"] > 0, seen
    assert seen["image", "used"] and seen["list", "used"] and seen["parquet", "used"], seen


def test_broken_images_cost_their_own_rows(tiny_clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images" / "ant"
    folder.mkdir(parents=True)
    (folder / "000.png").write_bytes(odd.encoded(odd.picture()))
    for seed in range(40):
        name, data = an_image(np.random.default_rng(seed))
        (folder / f"{seed + 1:03d}{Path(name).suffix}").write_bytes(data)
    encoder = load_encoder(f"local-dir:{tiny_clip}")
    report = extract(tmp_path / "images", tmp_path / "cache", encoder=encoder, batch_size=8)
    rows = open_cache(tmp_path / "cache").manifest.rows
    assert report.rows == rows.num_rows == 41 and 0 < report.failed < 41
    assert rows["status"].to_pylist().count("failed") == report.failed
    assert all(
        bool(error) == (status == "failed")
        for error, status in zip(rows["error"].to_pylist(), rows["status"].to_pylist(), strict=True)
    )
    found = open_cache(tmp_path / "cache").row_features(np.arange(41))
    assert (np.isnan(found).any((1, 2)) == (np.array(rows["status"].to_pylist()) == "failed")).all()


@pytest.mark.parametrize("kind", ["list", "tar", "zip", "parquet", "card", "descriptions"])
def test_the_command_line_refuses_in_one_message(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = 0
    for seed in range(12):
        folder = tmp_path / str(seed)
        folder.mkdir()
        if outcome(kind, seed, folder) == "used":
            continue
        name = KINDS[kind](np.random.default_rng([seed, sorted(KINDS).index(kind)]))[0]
        source = folder if kind in ("card", "descriptions") else folder / name
        with pytest.raises(SystemExit) as caught:
            ltcache(["extract", str(source), "--out", str(folder / "cache")])
        captured = capsys.readouterr()
        assert caught.value.code in (1, 2)
        assert captured.err.count("ltcache: ") == 1 and "Traceback" not in captured.err
        assert not (folder / "cache").exists()
        refused += 1
    assert refused > 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=2000)
    started = time.perf_counter()
    for key, times in sorted(run(parser.parse_args().count).items()):
        print(*key, times)
    print(f"{time.perf_counter() - started:.1f} s")
