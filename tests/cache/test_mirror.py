"""A cache at an address is read as if it lay here, and only what is asked for comes here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ltcache.cache import copy_cache, open_cache, store_prompts
from ltcache.cache.mirror import MIRRORS
from ltcache.errors import CacheError, UsageError
from ltcache.examine.verify import verify
from ltcache.records import ObjectStore
from tests.cli.small_caches import write_cache
from tests.conftest import Call
from tests.object_store import NOISE, served_bucket

pytestmark = NOISE
SHARD = "views/center/00000.h5"


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Return the address of a bucket."""
    with served_bucket("mirrored") as address:
        yield address


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """Return a small cache."""
    rows = {"train": [6, 4, 3, 2], "val": [2, 2, 2, 2], "test": [2, 2, 2, 2]}
    return write_cache(tmp_path / "cache", rows)


@pytest.fixture
def address(
    local: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> str:
    """Return the address of a copy of the cache, which has no mirror yet."""
    monkeypatch.setenv(MIRRORS, str(local.parent / "mirrors"))
    copy_cache(local, place := f"{bucket}/{request.node.name}")
    return place


def flip(address: str) -> None:
    """Change the last byte of the shard that lies at an address."""
    store = ObjectStore(address)
    data = store.read(SHARD)
    assert data is not None
    store.write(SHARD, data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("kind", [str, Path])
def test_what_is_read_is_fetched_once(kind: type, address: str, local: Path) -> None:
    cache = open_cache(kind(address))
    assert np.array_equal(cache.labels("train"), open_cache(local).labels("train"))
    assert not (cache.path / SHARD).exists()
    assert np.array_equal(cache.features("train"), open_cache(local).features("train"))
    ObjectStore(address).remove(SHARD)
    assert open_cache(address).features("test").shape == (8, 1, 6)


def test_what_is_damaged_is_fetched_again_and_never_read(address: str) -> None:
    cache = open_cache(address)
    expected, mirrored = cache.features(), cache.path / SHARD
    mirrored.write_bytes(b"damaged")
    assert np.array_equal(open_cache(address).features(), expected)
    flip(address)
    mirrored.unlink()
    with pytest.raises(CacheError, match=f"{address}/{SHARD}: its content is not"):
        open_cache(address).features()
    assert not mirrored.exists()


def test_commands_read_a_cache_at_an_address(
    address: str, local: Path, tmp_path: Path, call: Call
) -> None:
    assert call("zero-shot", address, "--json")[1] == call("zero-shot", local, "--json")[1]
    assert call("diff", address, local)[0] == 0
    run = tmp_path / "run"
    assert call("fit-adapter", address, "--method", "ncm", "--out", run)[0] == 0
    found = [call("evaluate", run, "--cache", place, "--json") for place in (address, local)]
    assert found[0] == found[1] and found[0][0] == 0
    assert call("evaluate", run, "--json")[0] == 0


def test_what_would_write_there_is_refused(address: str, call: Call) -> None:
    before = ObjectStore(address).names()
    with pytest.raises(UsageError, match="only read there: fetch it with ltcache copy"):
        store_prompts(open_cache(address).path, open_cache(address).prompts())
    for words in (["split", address, "--split", "test=0.2"], ["prompts", address]):
        status, _, err = call(*words)
        assert status == 2 and f"{address}: " in err and "ltcache copy" in err
    with pytest.raises(UsageError, match="only read: no --repair"):
        verify(address, repair=True)
    assert ObjectStore(address).names() == before


def test_verify_reads_what_lies_at_the_address(address: str, call: Call) -> None:
    open_cache(address).features()  # what the mirror has is not asked
    status, out, _ = call("verify", address, "--json")
    report = json.loads(out)
    assert status == 0 and report["ok"] and report["path"] == address and report["rows"] == 31
    flip(address)
    status, out, err = call("verify", address)
    assert status == 1 and f"{SHARD}: its content is not" in err and "DAMAGED: 1" in out
    ObjectStore(address).remove("cache.json")
    status, out, _ = call("verify", address)
    assert status == 1 and "NOT FINISHED: 1 of 1" in out
    status, _, err = call("verify", f"{address}-not-there")
    assert status == 1 and f"{address}-not-there: nothing is there" in err
