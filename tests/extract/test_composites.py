"""Views of composites: made of what a finished cache holds, and never of anything else later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ltcache.cache import Cache, open_cache
from ltcache.cache.verify import verify_files
from ltcache.encoder import Encoder, load_encoder
from ltcache.errors import CacheError, IdentityError, UsageError
from ltcache.examine.verify import SampleEncoding, verify
from ltcache.extract import ExtractReport, extract
from ltcache.images import DECODERS, PartnerRows, View
from ltcache.manifest import Manifest
from tests.conftest import write_images
from tests.extract.kill_driver import digests
from tests.extract.test_growth import manifest_of

SMALL: dict[str, Any] = {"shard_size": 4, "batch_size": 3}


@pytest.fixture(scope="module")
def encoder(tiny_clip: Path) -> Encoder:
    return load_encoder(f"local-dir:{tiny_clip}")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", {"a": 8, "b": 4, "c": 3})


def listed(root: Path, change: dict[str, tuple[int, str]] | None = None) -> Manifest:
    """Return all images below a folder, those of c in the test split, some as ``change`` says."""
    uris = sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))
    plain = {uri: ("abc".index(uri[0]), "test" if uri[0] == "c" else "train") for uri in uris}
    return manifest_of(root, [(uri, *where) for uri, where in (plain | (change or {})).items()])


def turned(root: Path, first: int = 0) -> Manifest:
    """Return the list of a folder from row ``first`` on, the last one first."""
    columns = listed(root).rows.slice(first).select(["uri", "label", "split"]).to_pydict()
    return manifest_of(root, list(zip(*columns.values(), strict=True))[::-1])


def made(images: Path, out: Path, encoder: Encoder, **options: Any) -> ExtractReport:
    return extract(listed(images), out, encoder=encoder, **{**SMALL, **options})


def of_key(cache: Cache, view: str = "cmo:2") -> dict[str, np.ndarray]:
    keys = cache.manifest.rows["key"].to_pylist()
    return dict(zip(keys, cache.features(view=view), strict=True))


def test_features_are_those_of_composites_made_by_hand(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    report = made(images, tmp_path / "c", encoder, views=("center", "cmo:2"), view_seed=4)
    assert (report.rows, report.encoded, report.failed) == (15, 30, 0)
    cache = open_cache(tmp_path / "c")
    partners = PartnerRows.of(cache.manifest.rows)
    view = View.from_identity(cache.identities("cmo:2")["view"])
    assert (view.seed, view.partners) == (4, partners.digest)

    def pixels(uri: str) -> np.ndarray:
        return np.asarray(Image.open(images / uri).resize((32, 32), Image.Resampling.BICUBIC))

    for row in cache.manifest.rows.to_pylist():
        for k in range(2):
            expected = pixels(row["uri"]).copy()
            if row["split"] == "train":
                drawn = partners.draw(view, row["sha256"], k, (32, 32))
                left, top, right, bottom = drawn.box
                other = pixels(partners.uris[drawn.partner].as_py())
                expected[top:bottom, left:right] = other[top:bottom, left:right]
            batch = torch.from_numpy(expected.transpose(2, 0, 1)[None].copy())
            encoded = encoder.encode_images(batch)["embedding"].numpy()[0]
            found = of_key(cache)[row["key"]][k]
            assert np.allclose(found, encoded, rtol=2e-3, atol=1e-4)
    assert verify_files(tmp_path / "c").ok


def test_how_it_is_made_does_not_change_what_is_made(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    made(images, tmp_path / "once", encoder, views=("flip", "cmo:2"), workers=1)
    made(images, tmp_path / "later", encoder)
    before = digests(tmp_path / "later" / "views")
    assert made(images, tmp_path / "later", encoder, views=("cmo:2",), workers=3).encoded == 15
    after = digests(tmp_path / "later" / "views")
    assert {name: after[name] for name in before} == before
    assert made(images, tmp_path / "later", encoder, views=("flip",)).encoded == 15
    found, expected = (digests(tmp_path / name / "views") for name in ("later", "once"))
    assert found == expected
    assert made(images, tmp_path / "later", encoder, views=("flip", "cmo:2")).encoded == 0

    extract(
        turned(images),
        tmp_path / "d",
        encoder=encoder,
        views=("cmo:2",),
        shard_size=7,
        batch_size=2,
    )
    other = of_key(open_cache(tmp_path / "d"))
    for key, features in of_key(open_cache(tmp_path / "once")).items():
        assert np.allclose(features, other[key], atol=1e-3)


def test_a_lost_shard_is_made_again(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    out = tmp_path / "c"
    made(images, out, encoder, views=("cmo:2",))
    before = digests(out)
    (out / "views" / "cmo-2" / "00001.h5").unlink()
    assert made(images, out, encoder).encoded == 4
    assert digests(out) == before


def test_a_failed_image_is_no_partner(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    (images / "b" / "002.png").write_bytes(b"no image")
    report = made(images, tmp_path / "c", encoder, views=("cmo:8",))
    assert report.failed == 1
    cache = open_cache(tmp_path / "c")
    assert "b/002.png" not in PartnerRows.of(cache.manifest.rows).keys.to_pylist()
    assert np.isfinite(cache.features(view="cmo:8")).all()


def test_a_partner_that_is_gone_stops_the_view_and_not_the_cache(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    out, lost = tmp_path / "c", images / "b" / "002.png"
    made(images, out, encoder)
    data, manifest = lost.read_bytes(), listed(images)
    lost.unlink()
    with pytest.raises(CacheError, match=r"002\.png, which is pasted into it.*images back"):
        extract(manifest, out, encoder=encoder, views=("cmo:16",), **SMALL)
    assert open_cache(out).views == ("center",)
    lost.write_bytes(data)
    made(images, out, encoder, views=("cmo:16",))
    made(images, tmp_path / "once", encoder, views=("cmo:16",))
    assert digests(out / "views") == digests(tmp_path / "once" / "views")


@pytest.mark.parametrize(
    "change",
    [{"a/000.png": (1, "train")}, {"a/000.png": (0, "test")}, {"c/000.png": (2, "train")}],
    ids=["relabelled", "moved out", "moved in"],
)
def test_other_training_rows_are_refused(
    images: Path, encoder: Encoder, tmp_path: Path, change: dict[str, tuple[int, str]]
) -> None:
    out = tmp_path / "c"
    made(images, out, encoder, views=("cmo:2",))
    before = digests(out)
    with pytest.raises(UsageError, match=rf"{next(iter(change))}.*choose another --out"):
        extract(listed(images, change), out, encoder=encoder, **SMALL)
    assert digests(out) == before


def test_an_image_that_changed_is_refused(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    out = tmp_path / "c"
    made(images, out, encoder, views=("cmo:2",))
    Image.new("RGB", (40, 40)).save(images / "b" / "001.png")
    with pytest.raises(UsageError, match=r"b/001\.png.*choose another --out"):
        made(images, out, encoder, rehash=True)


def test_rows_of_other_splits_may_come_and_have_plain_crops(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    out = tmp_path / "c"
    made(images, out, encoder, views=("cmo:2",))
    before = of_key(open_cache(out))
    Image.new("RGB", (40, 40), (9, 200, 30)).save(images / "c" / "new.png")
    assert made(images, out, encoder).encoded == 2
    cache = open_cache(out)
    after = of_key(cache)
    for key, features in before.items():
        assert np.array_equal(after[key], features)
    plain = of_key(cache, "center")["c/new.png"]
    assert np.allclose(after["c/new.png"], plain, atol=1e-4)


def test_a_list_that_grows_with_the_first_composites_draws_from_all_its_rows(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    extract(turned(images, 3), tmp_path / "c", encoder=encoder, **SMALL)
    report = made(images, tmp_path / "c", encoder, views=("cmo:2",))
    assert report.encoded == 3 + 15
    made(images, tmp_path / "once", encoder, views=("cmo:2",))
    once = of_key(open_cache(tmp_path / "once"))
    for key, features in of_key(open_cache(tmp_path / "c")).items():
        assert np.allclose(features, once[key], atol=1e-3)


def test_what_cannot_be_asked_for(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    held = {str(p.relative_to(images)): (0, "test") for p in images.rglob("*.png")}
    with pytest.raises(UsageError, match=r"cmo:2 is made of labelled images of the split train"):
        extract(listed(images, held), tmp_path / "c", encoder=encoder, views=("cmo:2",))
    assert not (tmp_path / "c").exists()
    made(images, tmp_path / "c", encoder, views=("cmo:2",), view_seed=1)
    with pytest.raises(IdentityError, match="seed: expected 1, found 2"):
        made(images, tmp_path / "c", encoder, views=("cmo:2",), view_seed=2)


def test_a_sample_is_encoded_again_with_its_partners(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    made(images, tmp_path / "c", encoder, views=("cmo:2",))
    report = verify(
        tmp_path / "c", sample=SampleEncoding(15, source=images, root=images, encoder=encoder)
    )
    assert report.ok


def test_a_sample_is_decoded_as_the_cache_was(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "photos" / "a"
    root.mkdir(parents=True)
    for n in range(3):
        noise = np.random.default_rng(n).integers(0, 256, (48, 40, 3), np.uint8)
        Image.fromarray(noise).save(root / f"{n}.jpg", quality=60)
    extract(tmp_path / "photos", tmp_path / "c", encoder=encoder, decoder="torchvision")
    seen: list[bytes] = []

    def noted(image: Image.Image, data: bytes) -> Image.Image:
        seen.append(data)
        return by_torchvision(image, data)

    by_torchvision = DECODERS["torchvision"]
    monkeypatch.setitem(DECODERS, "torchvision", noted)
    report = verify(tmp_path / "c", sample=SampleEncoding(3, encoder=encoder))
    assert report.ok and report.reencoded is not None and len(seen) == 3
    assert "decoder" not in report.reencoded["numerics"]
    assert report.reencoded["minimum"] > 0.99999
