"""verify, diff and inspect --checks as a person types them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ltcache.cli import main
from ltcache.encoder import EncoderChoice
from ltcache.examine.verify import SampleEncoding, verify
from tests.conftest import Call, write_images
from tests.encoder.tiny_models import write_tiny_clip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("birds") / "set"
    for split, counts in {"train": (8, 4), "test": (3, 3)}.items():
        write_images(root / split, dict(zip(("blue jay", "moth"), counts, strict=True)))
    for path in (root / "test").rglob("*.png"):  # write_images draws both splits alike
        path.write_bytes(path.read_bytes() + path.parent.name.encode())
    copy = root / "test" / "moth" / "000.png"
    shutil.copy(root / "train" / "moth" / "002.png", copy)
    return root


@pytest.fixture(scope="module")
def made(images: Path, tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "cache"
    model = f"local-dir:{tiny_clip}"
    with pytest.raises(SystemExit) as caught:
        main(["extract", str(images), "--out", str(out), "--model", model, "--threads", "1"])
    assert caught.value.code == 0
    return out


@pytest.fixture
def cache(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "cache"))


@pytest.mark.parametrize("name", ["verify", "diff"])
def test_help(call: Call, name: str) -> None:
    status, out, _ = call(name, "--help")
    assert status == 0
    assert "--json" in out
    assert f"ltcache {name}" in out


def test_a_sound_cache(call: Call, made: Path) -> None:
    status, out, err = call("verify", made)
    assert (status, err) == (0, "")
    assert "rows: 18, of which 0 failed" in out
    assert "center/embedding: length" in out
    assert out.endswith("fine\n")
    found = json.loads(call("verify", made, "--json", "--shards", 1)[1])
    assert found["ok"] is True
    assert found["problems"] == []


def test_parts_are_merged_into_the_report_of_the_whole(
    call: Call, cache: Path, tmp_path: Path
) -> None:
    parts = tmp_path / "parts"
    for number in (1, 2):
        status, out, err = call("verify", cache, "--part", f"{number}/2", "--out", parts)
        assert (status, err) == (0, "")
        assert out.endswith(f": when all parts are there: ltcache verify --merge {parts}\n")
    assert call("verify", "--merge", parts) == call("verify", cache)
    shard = cache / "views" / "center" / "00000.h5"
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    for number in (1, 2):
        assert call("verify", cache, "--part", f"{number}/2", "--out", parts)[0] == 0
    merged = call("verify", "--merge", *sorted(parts.iterdir()), "--json")
    assert merged == call("verify", cache, "--json") and merged[0] == 1
    for words, said in (
        ((cache, "--part", "1/2"), "say where the parts shall be, --out"),
        ((cache, "--out", parts), "--out has no effect without --part"),
        (("--merge", parts, "--repair"), "--repair has no effect with --merge"),
        ((cache, cache), "give one CACHE at a time"),
    ):
        status, _, err = call("verify", *words)
        assert (status, said in err) == (2, True), err


def test_damage_has_a_file_a_remedy_and_a_status(call: Call, cache: Path) -> None:
    shard = cache / "views" / "center" / "00000.h5"
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    status, out, err = call("verify", cache)
    assert status == 1
    assert "DAMAGED: 1 problems" in out
    assert "views/center/00000.h5: its content is not that which the index names" in err
    assert "Remedy: ltcache verify --repair" in err
    status, out, _ = call("verify", cache, "--json")
    assert status == 1
    assert json.loads(out)["problems"][0]["file"] == "views/center/00000.h5"
    for path in cache.glob("*.json"):
        if path.name != "cache.json":
            path.write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ltcache.cli.verify._SHOWN", 1)
        assert "and 2 more damaged files; --json lists them all" in call("verify", cache)[2]
    status, _, err = call("verify", cache / "views")
    assert status == 1
    assert "not a feature cache" in err


def test_a_sample_is_encoded_again(
    call: Call, cache: Path, images: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    again = ("verify", cache, "--sample", 5, "--model", f"local-dir:{tiny_clip}")
    for place in ((), ("--root", images), ("--source", images)):
        status, out, _ = call(*again, *place)
        assert status == 0
        assert "encoded again: 5 images, cosine at least" in out
    found = json.loads(call(*again, "--root", images, "--json")[1])["reencoded"]
    assert found["minimum"] > 0.9999
    assert call("verify", cache, "--sample", 5, "--root", images)[0] == 2  # a folder's name is lost
    other = write_tiny_clip(tmp_path / "other", seed=1)
    status, _, err = call(*again[:5], f"local-dir:{other}", "--root", images)
    assert status == 4
    assert "towers.image" in err


def test_images_that_changed_are_told_apart_from_features_that_are_wrong(
    call: Call, cache: Path, images: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(images, tmp_path / "set"))
    (root / "train" / "moth" / "001.png").write_bytes(b"other")
    (root / "train" / "moth" / "003.png").unlink()
    again = ("verify", cache, "--sample", 99, "--model", f"local-dir:{tiny_clip}", "--root")
    status, out, _ = call(*again, root)
    assert status == 0
    assert "train/moth/001.png: the image is no longer the one that was encoded" in out
    assert "train/moth/003.png: No such file" in out
    assert "encoded again: 16 images" in out
    status, _, err = call(*again, write_images(tmp_path / "empty", {"none": 1}))
    assert status == 1
    assert "none of the 18 images that were chosen can be compared" in err


def test_features_in_another_order_are_found(
    call: Call, cache: Path, images: Path, tiny_clip: Path
) -> None:
    import numpy as np

    from ltcache.cache.shards import array_file, map_array
    from tests.cache.test_verify import reseal

    path = cache / "views" / "center" / "00000.h5"
    arrays = {name: np.array(map_array(path, name))[::-1] for name in ("embedding", "pooled")}
    path.unlink()
    path.write_bytes(array_file(arrays))
    reseal(cache)
    assert call("verify", cache)[0] == 0
    again = ("verify", cache, "--sample", 99, "--model", f"local-dir:{tiny_clip}")
    status, out, err = call(*again, "--root", images)
    assert status == 1
    assert "DAMAGED" in out
    assert "the features are not those of these images" in err


def test_checks(call: Call, made: Path, images: Path) -> None:
    for command in ("inspect", "verify"):
        status, out, _ = call(command, made, "--checks")
        assert status == 0
        assert "warning: 1 images are in two splits (the same bytes)" in out
        assert "test/moth/000.png (test) is train/moth/002.png (train); classes moth" in out
    found = json.loads(call("inspect", made, "--checks", "--json")[1])["checks"]
    assert found["duplicates"][0]["count"] == 1
    status, out, _ = call("inspect", images, "--checks")
    assert status == 0
    assert "1 image of test in train (test/moth/000.png is train/moth/002.png)" in out


def test_diff(call: Call, made: Path, images: Path, tmp_path: Path) -> None:
    assert "nothing differs" in call("diff", made, made)[1]
    status, out, _ = call("diff", made, images)
    assert status == 0
    assert "other content: not looked at" in out
    root = Path(shutil.copytree(images, tmp_path / "set"))
    (root / "train" / "moth" / "001.png").rename(root / "train" / "moth" / "new.png")
    out = call("diff", made, root)[1]
    assert "only in B: 1\n  train/moth/new.png" in out
    assert "to encode for B: 1" in out
    found = json.loads(call("diff", made, root, "--rehash", "--json")[1])
    assert found["encode"]["count"] == 0
    assert found["same"] is False
    status, _, err = call("diff", tmp_path, made)
    assert status == 1
    assert "not a feature cache" in err


def test_another_precision_is_named_and_allowed(made: Path, images: Path, tiny_clip: Path) -> None:
    model = f"local-dir:{tiny_clip}"
    sample = SampleEncoding(6, root=images, encoder=EncoderChoice(model, precision="bf16"))
    report = verify(made, sample=sample)
    assert report.ok
    assert report.reencoded is not None
    assert "precision" in report.reencoded["numerics"]
    assert 0.98 < report.reencoded["minimum"] < 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ltcache.examine.verify.SAME", 1.0)
        warned = verify(made, sample=sample)
        assert warned.ok
        assert "the numerics differ in precision" in warned.warnings[0]
    repeated = verify(made, sample=sample)
    assert repeated.reencoded == report.reencoded
