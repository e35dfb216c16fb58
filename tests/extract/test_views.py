"""Views and fields: added at any time, they are what one extraction of all would have made."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from ltcache.cache import open_cache
from ltcache.cache.verify import verify_files
from ltcache.encoder import Encoder, load_encoder
from ltcache.errors import CacheError, IdentityError, UsageError
from ltcache.extract import ExtractReport, extract
from ltcache.images import View, decode_views
from ltcache.manifest import Manifest
from tests.conftest import write_images
from tests.extract.kill_driver import digests
from tests.extract.test_growth import manifest_of

SMALL: dict[str, Any] = {"shard_size": 4, "batch_size": 3}
ALL = ("center", "flip", "five", "rrc:2")


@pytest.fixture(scope="module")
def encoder(tiny_clip: Path) -> Encoder:
    return load_encoder(f"local-dir:{tiny_clip}")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", {"a": 7, "b": 3})


def listed(root: Path, uris: Sequence[str] | None = None) -> Manifest:
    """Return a manifest of images below a folder, all by default."""
    found = sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))
    return manifest_of(root, [(uri, 0, "train") for uri in (found if uris is None else uris)])


def shards(out: Path, folder: str = "center") -> dict[str, str]:
    return {name: sha for name, sha in digests(out).items() if name.startswith(f"views/{folder}/")}


def view_of_new(images: Path, out: Path, encoder: Encoder, **options: Any) -> ExtractReport:
    return extract(listed(images), out, encoder=encoder, **{**SMALL, **options})


def test_views_are_the_crops_encoded_one_by_one(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    report = view_of_new(images, tmp_path / "c", encoder, views=ALL)
    assert (report.rows, report.encoded) == (10, 40)
    cache = open_cache(tmp_path / "c")
    assert set(cache.views) == set(ALL)
    paths = [images / uri for uri in cache.manifest.rows["uri"].to_pylist()]
    bicubic = transforms.InterpolationMode.BICUBIC
    five = transforms.Compose([transforms.Resize(32 + 3, bicubic), transforms.FiveCrop(32)])
    for view in map(View, ALL):
        found = cache.features(view=view.name)
        assert found.shape == (10, view.crops, 32)
        for row, path in enumerate(paths):
            sha = cache.manifest.rows["sha256"][row].as_py()
            decoded = decode_views(path.read_bytes(), encoder.preprocessing, [view], sha)
            pixels = decoded.pixels[view.name]
            if view.name == "five":
                crops = five(Image.open(path))
                pixels = np.stack([np.asarray(crop).transpose(2, 0, 1) for crop in crops])
            expected = encoder.encode_images(torch.from_numpy(pixels.copy()))["embedding"].numpy()
            assert np.allclose(found[row], expected, rtol=2e-3, atol=1e-4)
    assert verify_files(tmp_path / "c").ok


def test_added_views_are_those_made_at_once_and_touch_nothing(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    view_of_new(images, tmp_path / "once", encoder, views=ALL)
    out = tmp_path / "later"
    view_of_new(images, out, encoder)
    before = {path: path.stat().st_mtime_ns for path in (out / "views").rglob("*.*")}
    assert view_of_new(images, out, encoder, views=("flip", "rrc:2"), workers=1).encoded == 20
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert view_of_new(images, out, encoder, views=ALL, workers=3).encoded == 10
    assert view_of_new(images, out, encoder, views=ALL).encoded == 0
    assert view_of_new(images, out, encoder).encoded == 0
    for folder in ("center", "flip", "five", "rrc-2"):
        assert shards(out, folder) == shards(tmp_path / "once", folder)
    assert set(open_cache(out).views) == set(ALL)
    assert verify_files(out).ok


def test_random_crops_depend_on_seed_and_content_alone(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    def features(name: str, **options: Any) -> np.ndarray:
        view_of_new(images, tmp_path / name, encoder, views=("rrc:2",), **options)
        cache = open_cache(tmp_path / name)
        order = np.argsort(cache.manifest.rows["key"].to_pylist())
        return cache.features(view="rrc:2")[order]

    a = features("a")
    assert np.allclose(a, features("b", shard_size=3, batch_size=2, workers=1), atol=1e-3)
    assert not np.allclose(a, features("c", view_seed=1), atol=1e-2)
    turned = manifest_of(
        images, [(u, 0, "train") for u in listed(images).rows["uri"].to_pylist()[::-1]]
    )
    extract(turned, tmp_path / "d", encoder=encoder, views=("rrc:2",), **SMALL)
    assert np.allclose(a, open_cache(tmp_path / "d").features(view="rrc:2")[::-1], atol=1e-3)
    identity = open_cache(tmp_path / "c").identities("rrc:2")["view"]
    assert (identity["name"], identity["crops"], identity["seed"]) == ("rrc:2", 2, 1)
    assert open_cache(tmp_path / "c").identities()["view"] == {"name": "center"}


def test_a_view_has_one_seed(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    out = tmp_path / "c"
    view_of_new(images, out, encoder, views=("rrc:2",), view_seed=3)
    before = digests(out)
    with pytest.raises(IdentityError, match=r"seed: expected 3, found 4"):
        view_of_new(images, out, encoder, views=("rrc:2",), view_seed=4)
    assert view_of_new(images, out, encoder, views=("rrc:2",)).encoded == 0
    assert digests(out) == before


def test_a_cache_grows_in_every_view(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    uris = listed(images).rows["uri"].to_pylist()
    out = tmp_path / "c"
    extract(listed(images, uris[:6]), out, encoder=encoder, views=("flip",), **SMALL)
    first = shards(out) | shards(out, "flip")
    report = extract(listed(images), out, encoder=encoder, views=("rrc:2",))
    assert report.encoded == 6 + 3 * 4  # the new view of what was there; all views of the rest
    assert (first.items() & (shards(out) | shards(out, "flip")).items()) == first.items()
    fresh = tmp_path / "fresh"
    view_of_new(images, fresh, encoder, views=("flip", "rrc:2"))
    a, b = open_cache(out), open_cache(fresh)
    for view in ("center", "flip", "rrc:2"):
        assert np.allclose(a.features(view=view), b.features(view=view), rtol=2e-3, atol=1e-4)
    assert verify_files(out).ok


def test_failed_images_are_failed_in_every_view_and_come_back(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    good = (images / "a/001.png").read_bytes()
    (images / "a/001.png").write_text("no image")
    out = tmp_path / "c"
    assert view_of_new(images, out, encoder).failed == 1
    (images / "a/001.png").write_bytes(good)
    report = view_of_new(images, out, encoder, views=("flip",))
    assert (report.failed, report.encoded) == (1, 9)  # it is not looked at again unasked
    assert verify_files(out).ok
    report = view_of_new(images, out, encoder, retry_failed=True)
    assert (report.failed, report.encoded) == (0, 2)
    assert np.isfinite(open_cache(out).features(view="flip")).all()
    assert verify_files(out).ok


@pytest.mark.parametrize("what", ["gone", "changed"])
def test_a_view_that_would_lose_rows_is_refused_and_the_cache_is_as_it_was(
    images: Path, encoder: Encoder, tmp_path: Path, what: str
) -> None:
    out = tmp_path / "c"
    view_of_new(images, out, encoder)
    before = digests(out)
    good = (images / "b/001.png").read_bytes()
    if what == "gone":
        (images / "b/001.png").unlink()
    else:
        shutil.copy(images / "a/001.png", images / "b/001.png")
    manifest = manifest_of(
        images, [(u, 0, "train") for u in open_cache(out).manifest.rows["uri"].to_pylist()]
    )
    error = CacheError if what == "gone" else IdentityError
    with pytest.raises(error, match=r"b/001\.png"):
        extract(manifest, out, encoder=encoder, views=("flip",))
    assert {k: v for k, v in digests(out).items() if k in before} == before
    assert open_cache(out).views == ("center",)
    (images / "b/001.png").write_bytes(good)
    extract(manifest, out, encoder=encoder, views=("flip",))
    view_of_new(images, tmp_path / "once", encoder, views=("flip",))
    assert shards(out, "flip") == shards(tmp_path / "once", "flip")


def test_rows_that_left_before_a_view_was_added_come_back_in_every_view(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    uris = listed(images).rows["uri"].to_pylist()
    out = tmp_path / "c"
    view_of_new(images, out, encoder)
    assert extract(listed(images, uris[1:]), out, encoder=encoder).encoded == 0
    assert extract(listed(images, uris[1:]), out, encoder=encoder, views=("flip",)).encoded == 9
    assert verify_files(out).ok
    assert view_of_new(images, out, encoder).encoded == 2
    assert np.isfinite(open_cache(out).features(view="flip")).all()
    assert verify_files(out).ok


def test_an_interrupted_addition_goes_on_and_hides_until_it_is_whole(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    out = tmp_path / "c"
    view_of_new(images, out, encoder)

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        view_of_new(images, out, encoder, views=("flip",), progress=stop)
    assert open_cache(out).views == ("center",)
    done = len(list(out.glob("views/flip/*.json")))
    assert 1 <= done < 3
    assert verify_files(out).ok
    # other work goes on meanwhile, and the addition is completed later
    uris = listed(images).rows["uri"].to_pylist()
    extract(listed(images, uris[2:]), out, encoder=encoder)
    report = view_of_new(images, out, encoder, views=("flip",))
    assert report.encoded == 10 - 4 * done
    view_of_new(images, tmp_path / "once", encoder, views=("flip",))
    assert shards(out, "flip") == shards(tmp_path / "once", "flip")


def test_fields_are_added_like_views(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    out = tmp_path / "c"
    view_of_new(images, out, encoder, fields=("embedding",), views=("flip",))
    before = shards(out) | shards(out, "flip")
    report = view_of_new(images, out, encoder, fields=("embedding", "pooled"))
    assert report.encoded == 20
    view_of_new(images, tmp_path / "once", encoder, views=("flip",))
    a, b = open_cache(out), open_cache(tmp_path / "once")
    for view in ("center", "flip"):
        assert a.field_dims(view) == b.field_dims(view)
        for name in ("embedding", "pooled"):
            assert np.array_equal(
                a.features(field=name, view=view), b.features(field=name, view=view)
            )
    assert shards(out) | shards(out, "flip") == before
    assert {layer.folder for layer in a.layers} == {
        "center", "flip", "center+pooled", "flip+pooled",
    }  # fmt: skip
    assert verify_files(out).ok
    assert view_of_new(images, out, encoder, views=("five",)).encoded == 10
    assert set(open_cache(out).field_dims("five")) == {"embedding"}


def test_another_process_that_added_the_same_view_is_no_error(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    out = tmp_path / "c"
    view_of_new(images, out, encoder)
    reports: list[ExtractReport] = []

    def other(_: object) -> None:
        if not reports:
            reports.append(view_of_new(images, out, encoder, views=("flip",)))

    report = view_of_new(images, out, encoder, views=("flip",), progress=other)
    assert (report.rows, open_cache(out).views) == (10, ("center", "flip"))
    view_of_new(images, tmp_path / "once", encoder, views=("flip",))
    assert shards(out, "flip") == shards(tmp_path / "once", "flip")


def test_a_lost_shard_of_a_cache_that_grew_is_encoded_again(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    uris = listed(images).rows["uri"].to_pylist()
    out = tmp_path / "c"
    extract(listed(images, uris[:6]), out, encoder=encoder, views=("flip",), **SMALL)
    view_of_new(images, out, encoder)
    before = digests(out)
    for name in ("center/00000.json", "flip/00002.h5"):
        (out / "views" / name).unlink()
    report = view_of_new(images, out, encoder)
    assert report.encoded == 8
    assert digests(out) == before


def test_view_options_that_cannot_be_meant(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    for options in ({"views": ("rrc:0",)}, {"views": ("rrc:2",), "view_seed": -1}):
        with pytest.raises(UsageError):
            view_of_new(images, tmp_path / "c", encoder, **options)
    assert not (tmp_path / "c").exists()
