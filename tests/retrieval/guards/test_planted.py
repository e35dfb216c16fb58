"""Planted copies of real drawings: what guards find of each kind, and what they never let in."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image

from ltcache.cache import Cache, open_cache
from ltcache.encoder import Encoder, EncoderChoice, load_encoder
from ltcache.errors import IdentityError, UsageError
from ltcache.extract import extract
from ltcache.manifest import read_manifest
from ltcache.retrieval import RetrievalSettings, retrieve_tail
from ltcache.retrieval.guards.neighbours import calibrate_near
from ltcache.retrieval.search import search_pool
from tests.retrieval.planted import COPIES, copy_of, planted_duplicates, read_images


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """Return the embedded encoder."""
    return load_encoder("embedded")


@pytest.fixture(scope="module")
def cache(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """Return a cache of a tenth of Emoji-LT, whole units."""
    manifest = read_manifest("emoji_lt")
    units = pc.unique(manifest.rows["unit"])
    keep = pc.is_in(manifest.rows["unit"], value_set=units[::12])
    rows = manifest.rows.filter(keep)
    rows = rows.set_column(0, "row_id", [np.arange(rows.num_rows)])
    out = tmp_path_factory.mktemp("emoji") / "cache"
    extract(replace(manifest, rows=rows), out, encoder=encoder, fields=["embedding"], threads=1)
    return open_cache(out)


def test_only_the_encoder_of_the_cache_measures_its_guards(cache: Cache, tiny_clip: Path) -> None:
    other = load_encoder(f"local-dir:{tiny_clip}", device="cpu")
    near = calibrate_near(cache)
    with pytest.raises(IdentityError, match="encoder differs"):
        planted_duplicates(cache, "emoji_lt", near, encoder=other, images=4)


def test_copies_are_made_as_their_names_say() -> None:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    made = {kind: Image.open(io.BytesIO(copy_of(stream.getvalue(), kind))) for kind in COPIES}
    assert {kind: image.size for kind, image in made.items()} == {
        "jpeg60": (60, 40),
        "half size": (30, 20),
        "crop 5 %": (57, 38),
        "flip": (60, 40),
    }
    assert made["jpeg60"].format == "JPEG"
    np.testing.assert_array_equal(np.asarray(made["flip"]), pixels[:, ::-1])
    np.testing.assert_array_equal(np.asarray(made["crop 5 %"]), pixels[1:39, 1:58])
    assert copy_of(b"as it is", "exact") == b"as it is"


def test_recall_and_false_alarms_of_each_kind(cache: Cache, encoder: Encoder) -> None:
    near = calibrate_near(cache, false_alarm=0.02)
    found = planted_duplicates(cache, "emoji_lt", near, encoder=encoder, images=60)
    reports = {report.kind: report for report in found}
    assert list(reports) == ["exact", *COPIES]
    assert reports["exact"].recall == 1
    assert reports["exact"].median > 0.9999
    assert reports["crop 5 %"].recall > 0.4  # 0.76 of 300 images of all of Emoji-LT at 0.01
    assert reports["flip"].recall > 0.4  # 0.78
    assert all(report.false_alarms < 0.12 for report in found)
    assert all(report.nearest > 0.6 for report in found)


def test_planted_test_images_are_kept_out(cache: Cache, encoder: Encoder, tmp_path: Path) -> None:
    rows = cache.rows("test")[:40]
    pool = tmp_path / "web"
    pool.mkdir()
    for row, data in zip(rows, read_images(cache, "emoji_lt", rows), strict=True):
        (pool / f"{row}.webp").write_bytes(data)
        with Image.open(io.BytesIO(data)) as image:
            image.save(pool / f"{row}.png")  # the same pixels in other bytes
    manifest = read_manifest(pool, labelled=False)
    extract(manifest, tmp_path / "pool", encoder=encoder, fields=["embedding"], threads=1)
    labels = tuple(np.unique(cache.labels("test")[:40]).tolist())
    settings = RetrievalSettings(labels=labels, per_class=80, threshold=0.0, margin=-99.0)
    result = retrieve_tail(cache, tmp_path / "pool", settings=settings)
    assert result.table.num_rows
    assert sum(result.counts().values()) == 0
    reasons = {(row["uri"][-4:], row["reason"]) for row in result.table.to_pylist()}
    assert reasons == {("webp", "leak"), (".png", "near-leak")}
    assert min(result.table["held_out_similarity"].to_pylist()) > 0.999
    off = replace(settings, off=("leaks",))
    assert sum(retrieve_tail(cache, tmp_path / "pool", settings=off).counts().values()) > 0


def test_a_pool_is_searched_with_texts_and_images(
    cache: Cache, encoder: Encoder, tmp_path: Path
) -> None:
    row = int(cache.rows("test")[7])
    image = tmp_path / "query.webp"
    image.write_bytes(read_images(cache, "emoji_lt", np.array([row]))[0])
    found = search_pool(cache, texts=["a flower"], images=[image], top=5, encoder=encoder)
    assert [hit.rank for hit in found] == [1, 2, 3, 4, 5] * 2
    assert found[5].pool_row == row
    assert found[5].cosine > 0.9999
    assert [hit.cosine for hit in found[:5]] == sorted((h.cosine for h in found[:5]), reverse=True)
    text = encoder.encode_texts(["a flower"]).numpy()[0]
    features = cache.features()[:, 0]
    cosines = features @ text / np.linalg.norm(features, axis=1) / np.linalg.norm(text)
    assert found[0].pool_row == cosines.argmax()
    with pytest.raises(UsageError, match="nothing to search"):
        search_pool(cache)
    (tmp_path / "bad.png").write_text("no image")
    with pytest.raises(UsageError, match=r"bad\.png"):
        search_pool(cache, images=[tmp_path / "bad.png"], encoder=encoder)


def test_a_search_needs_the_encoder_of_the_pool(cache: Cache, tiny_clip: Path) -> None:
    with pytest.raises(IdentityError):
        search_pool(cache, texts=["a flower"], encoder=EncoderChoice(f"local-dir:{tiny_clip}"))
