"""Caches and lists are compared by key, content and angle."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ltcache.cache import open_cache
from ltcache.cache.norms import cosines
from ltcache.cache.verify import verify_files
from ltcache.cli.diff import diff_lines
from ltcache.encoder import Encoder, load_encoder
from ltcache.errors import CacheError, LtcacheError
from ltcache.examine.diff import diff
from ltcache.extract import extract
from ltcache.manifest import ClassList, Manifest, read_manifest
from ltcache.transfer import import_features
from tests.conftest import write_images
from tests.encoder.tiny_models import write_tiny_clip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("diff") / "set"
    for split, counts in {"train": (9, 4, 3), "test": (3, 3, 3)}.items():
        names = ("blue jay", "moth", "newt")
        write_images(root / split, dict(zip(names, counts, strict=True)), size=32)
    return root


@pytest.fixture(scope="module")
def encoder(tiny_clip: Path) -> Encoder:
    return load_encoder(f"local-dir:{tiny_clip}")


@pytest.fixture(scope="module")
def cache(images: Path, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("diff") / "cache"
    extract(images, out, encoder=encoder, threads=1)
    return out


def changed(manifest: Manifest, column: str, values: dict[int, object]) -> Manifest:
    rows = manifest.rows
    new = rows[column].to_pylist()
    for row, value in values.items():
        new[row] = value
    array = pa.array(new, rows.schema.field(column).type)
    position = rows.column_names.index(column)
    return replace(manifest, rows=rows.set_column(position, column, array))


def test_a_cache_does_not_differ_from_itself_nor_from_its_source(cache: Path, images: Path) -> None:
    report = diff(cache, cache)
    assert report.same
    assert report.features is not None
    assert report.features.minimum == pytest.approx(1)
    assert report.features.rows == 25
    for rehash in (False, True):
        report = diff(cache, images, rehash=rehash)
        assert report.same
        assert report.features is None
        assert (report.changed is None) is not rehash
    json.dumps(report.to_dict(), allow_nan=False)


def test_rows_that_came_went_and_changed(cache: Path, images: Path) -> None:
    manifest = read_manifest(images)
    other = changed(changed(manifest, "label", {0: 2, 1: -1}), "split", {3: "test"})
    extra = other.rows.slice(4, 1).to_pydict() | {
        "row_id": [len(other) - 1],
        "key": ["new"],
        "uri": ["new.png"],
    }
    rows = pa.concat_tables([other.rows.slice(0, 24), pa.table(extra, schema=other.rows.schema)])
    report = diff(cache, replace(other, rows=rows))
    assert not report.same
    assert report.rows == (25, 25)
    assert (report.added.count, report.added.first) == (1, ("new",))
    assert report.removed.count == 1
    assert report.removed.first == (manifest.rows["key"][24].as_py(),)
    first = manifest.rows["key"][0].as_py()
    assert report.relabelled.count == 2
    assert report.relabelled.first[0] == f"{first}: 0 (blue jay) -> 2 (newt)"
    assert report.relabelled.first[1].endswith("-> unlabelled")
    assert report.moved.count == 1
    assert report.moved.first[0].endswith(": train -> test")
    assert (report.encode.count, report.encode.first) == (1, ("new.png",))
    assert report.identities == {}


def test_contents_are_known_when_images_are_read(cache: Path, images: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(images, tmp_path / "set"))
    same, other = root / "train" / "moth" / "000.png", root / "train" / "moth" / "001.png"
    same.rename(root / "train" / "moth" / "renamed.png")
    shutil.copy(root / "test" / "newt" / "000.png", other)
    (root / "train" / "newt" / "000.png").write_bytes(b"new content")
    by_name, by_content = diff(cache, root), diff(cache, root, rehash=True)
    assert (by_name.added.count, by_name.removed.count) == (1, 1)
    assert by_name.encode.first == ("train/moth/renamed.png",)
    assert by_content.encode.first == ("train/newt/000.png",)
    assert by_content.changed is not None
    assert by_content.changed.first == ("train/moth/001.png", "train/newt/000.png")


def test_identities_are_compared_field_by_field(cache: Path, images: Path, tmp_path: Path) -> None:
    other = load_encoder(f"local-dir:{write_tiny_clip(tmp_path / 'model', seed=1)}")
    manifest = read_manifest(images)
    names = ClassList(("blue jay", "moth", "eft"), manifest.classes.source_ids)
    manifest = replace(manifest, classes=names, templates=("art of a {}.",))
    extract(manifest, tmp_path / "b", encoder=other, fields=("embedding",), threads=1)
    report = diff(cache, tmp_path / "b")
    found = report.identities
    assert set(found) == {"classes", "encoder", "manifest", "prompts", "views"}
    assert found["classes"]["name of 2"] == ("newt", "eft")
    assert "towers.image" in found["encoder"]
    assert found["views"] == {"center.pooled": (32, None)}
    assert report.features is not None
    assert report.features.mean < 0.9


def test_movement_by_class_and_group(
    cache: Path, images: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = open_cache(cache), open_cache(cache)
    plain = type(b).row_features
    labels = a.labels()

    def turned(self: object, rows: np.ndarray, *rest: str) -> np.ndarray:
        values = plain(self, rows, *rest)  # type: ignore[arg-type]
        if self is b:
            values[labels[rows] == 1] *= -1
        return values

    monkeypatch.setattr(type(b), "row_features", turned)
    monkeypatch.setattr("ltcache.examine.diff._BLOCK", 4)
    moved = diff(a, b).features
    assert moved is not None
    assert next(iter(moved.classes)) == 1
    assert moved.classes[1] == pytest.approx(-1)
    assert moved.classes[0] == pytest.approx(1)
    assert moved.groups == {"few": pytest.approx((18 - 7) / 25)}
    assert "moth" in moved.worst
    assert moved.minimum == pytest.approx(-1)


def test_features_of_other_sizes_are_not_compared(
    cache: Path, images: Path, tmp_path: Path
) -> None:
    other = load_encoder(f"local-dir:{write_tiny_clip(tmp_path / 'model', embed_dim=16)}")
    extract(images, tmp_path / "b", encoder=other, threads=1)
    report = diff(cache, tmp_path / "b")
    assert report.features is None
    assert report.why == "embeddings have 32 and 16 dimensions"


def test_what_is_neither_is_refused(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="not a feature cache"):
        diff(tmp_path, cache)
    with pytest.raises(LtcacheError, match="nowhere"):
        diff(cache, tmp_path / "nowhere")


def test_failed_and_unknown_contents_are_equal_to_themselves(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(images, tmp_path / "set"))
    for number, content in enumerate((b"", b"no image", b"no image")):
        (root / "train" / "moth" / f"00{number}.png").write_bytes(content)
    extract(root, tmp_path / "c", encoder=encoder, threads=1)
    report = diff(tmp_path / "c", tmp_path / "c")
    assert report.same
    assert report.features is not None
    assert report.features.rows == 22
    assert diff(tmp_path / "c", root, rehash=True).same


def test_imported_rows_have_no_content_that_could_differ(
    cache: Path, images: Path, tmp_path: Path
) -> None:
    parent = open_cache(cache)
    rows = np.concatenate([parent.features(split) for split in ("train", "test")])
    np.savez(tmp_path / "rows.npz", features=rows)
    named, bare = tmp_path / "named", tmp_path / "bare"
    import_features(tmp_path / "rows.npz", named, manifest=images)
    for pair in ((cache, named), (named, cache), (named, images)):
        report = diff(*pair, rehash=pair[1] == images)
        assert (report.matched, report.unknown, report.changed) == (25, 25, None)
        assert report.encode.count == 0
    said = "\n".join(diff_lines(diff(cache, named)))
    assert "other content: not known (A or B does not know the content of 25 shared rows)" in said
    assert "no row of A could be matched" not in said

    import_features(tmp_path / "rows.npz", bare)  # its rows are numbered
    report = diff(cache, bare)
    assert (report.matched, report.added.count, report.removed.count) == (0, 25, 25)
    assert "no row of A could be matched with one of B" in "\n".join(diff_lines(report))


def test_cosines() -> None:
    a = np.array([[3.0, 0.0], [1.0, 1.0], [0.0, 0.0]], np.float16)
    b = np.array([[0.0, 2.0], [2.0, 2.0], [1.0, 0.0]], np.float32)
    assert cosines(a, b).tolist() == pytest.approx([0, 1, 0])


def test_diff_foretells_what_extraction_encodes(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(images, tmp_path / "set"))
    out = tmp_path / "c"
    extract(root, out, encoder=encoder, threads=1, shard_size=8)
    write_images(tmp_path / "more", {"moth": 5}, size=24)
    for number, path in enumerate(sorted((tmp_path / "more" / "moth").iterdir())):
        shutil.copy(path, root / "train" / "moth" / f"new-{number}.png")
    (root / "train" / "newt" / "000.png").rename(root / "test" / "newt" / "renamed.png")
    (root / "train" / "newt" / "001.png").unlink()
    before = diff(out, root, rehash=True)
    assert before.encode.count == 5
    assert before.removed.count == 2
    assert extract(root, out, encoder=encoder, threads=1, shard_size=8).encoded == 5
    assert diff(out, root, rehash=True).same
    report = verify_files(out)
    assert report.ok
    assert report.rows == len(read_manifest(root))
    (out / "encoder.json").write_text("{}")
    (problem,) = verify_files(out).problems
    assert "restore it from a copy" in problem.remedy
