"""A cache that processes make at an address is the one that is made in a folder."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ltcache.cache import commit_shard, copy_cache, staging_folder
from ltcache.errors import IdentityError, UsageError
from ltcache.examine.verify import verify
from ltcache.extract import extract
from ltcache.records import ObjectStore, bytes_digest
from tests.conftest import PATIENCE, Call
from tests.extract.kill_driver import digests
from tests.object_store import NOISE, served_bucket

pytestmark = NOISE


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Return the address of a bucket."""
    with served_bucket("extracted") as address:
        yield address


@pytest.fixture(scope="module")
def alone(few_images: Path, tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the cache that one process makes in a folder."""
    out = tmp_path_factory.mktemp("alone") / "cache"
    extract(few_images, out, model=f"local-dir:{tiny_clip}", shard_size=4)
    return out


@pytest.mark.slow
def test_two_processes_of_which_one_is_killed_make_the_cache_of_one(
    bucket: str, alone: Path, few_images: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    address, model, held = f"{bucket}/two", f"local-dir:{tiny_clip}", tmp_path / "held"
    words = ["-m", "tests.extract.held_extraction", few_images, address, model, held]
    with subprocess.Popen([sys.executable, *map(str, words)]) as other:
        end = time.monotonic() + PATIENCE
        while not held.exists():
            assert other.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        report = extract(few_images, address, model=model, shard_size=4, part="2/2")
        assert other.poll() is None
        other.kill()
    assert report.path == address and report.encoded == 12 and report.rows == 20
    assert verify(address).ok
    copy_cache(address, tmp_path / "here")
    assert digests(tmp_path / "here") == digests(alone)
    assert {name for name in ObjectStore(address).names() if "/." in name} == set()


def test_a_finished_cache_is_reused_and_never_changed(
    bucket: str, alone: Path, few_images: Path, tiny_clip: Path, call: Call
) -> None:
    copy_cache(alone, address := f"{bucket}/finished")
    words = ["extract", few_images, "--model", f"local-dir:{tiny_clip}", "--out", address]
    before = {name: ObjectStore(address).digest(name) for name in ObjectStore(address).names()}
    status, out, _ = call(*words)
    assert status == 0 and out.startswith(f"{address}: 20 rows, 20 images; nothing to encode")
    for more, said in (
        (["--views", "flip"], "views or fields"),
        (["--limit", "7"], "list of images"),
        (["--retry-failed"], "--retry-failed or --rehash"),
        (["--split", "test=0.2"], "come last"),
    ):
        status, _, err = call(*words, *more)
        assert status == 2 and f"{address}: " in err and said in err and "ltcache copy" in err
    after = {name: ObjectStore(address).digest(name) for name in ObjectStore(address).names()}
    assert after == before


def test_another_plan_is_refused(bucket: str, few_images: Path, tiny_clip: Path) -> None:
    model = f"local-dir:{tiny_clip}"
    extract(few_images, f"{bucket}/plan", model=model, shard_size=10)
    ObjectStore(f"{bucket}/plan").remove("cache.json")
    with pytest.raises(IdentityError, match="shard_size: expected 10, found 5"):
        extract(few_images, f"{bucket}/plan", model=model, shard_size=5)
    report = extract(few_images, f"{bucket}/plan", model=model)
    assert report.encoded == 0 and verify(f"{bucket}/plan").ok


def test_the_first_commit_wins(bucket: str) -> None:
    written = []
    for value in (1.0, 2.0):
        with staging_folder(f"{bucket}/first") as folder:
            record = commit_shard(
                folder, "center", 0, {"embedding": np.full((1, 1, 4), value, np.float32)},
                first=0, count=1, micro_batch=1, content=[""], width=[1], height=[1], errors={},
            )  # fmt: skip
        written.append(record)
    assert written[0] is not None and written[1] is None
    store = ObjectStore(f"{bucket}/first")
    assert store.names() == ["views/center/00000.h5", "views/center/00000.json"]
    data = store.read("views/center/00000.h5")
    assert data is not None and bytes_digest(data) == written[0].sha256


def test_a_store_that_lets_a_name_be_created_twice_is_refused(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ObjectStore, "create", lambda *_: True)
    with pytest.raises(UsageError, match="does not keep a name"), staging_folder(f"{bucket}/twice"):
        pass
