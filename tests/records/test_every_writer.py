"""Writers, killed at every step: what a reader then opens is the old or the new one, whole.

Extraction, whose steps are commits of shards, is in :mod:`tests.extract.test_kills`; what retrieval
writes is in :mod:`tests.retrieval`.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ltcache.cache import open_cache, store_prompts
from ltcache.ensemble import ensemble
from ltcache.evaluate import evaluate
from ltcache.runs import open_run
from ltcache.transfer import export_cache, import_features
from tests.records.test_files import content, killed, temporaries

KEPT = Path(__file__).parents[1] / "kept/v0.1.0"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a cache and runs, and the working directory is there."""
    for name in ("cache", "runs"):
        with zipfile.ZipFile(KEPT / f"{name}.zip") as archive:
            archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # slow, and a kill loses no write
    return tmp_path


def at_every_step(
    write: Callable[[], object], read: Callable[[], object], renew: Callable[[], object]
) -> list[object]:
    """Return what is read after kills before the first step, the second... and after the end."""
    seen: list[object] = []
    for step in range(200):
        renew()
        died = killed(write, step)
        seen.append(read())
        if not died:
            return seen
    raise AssertionError("a writer of more than 200 steps")


def replaced_folder(out: Path, old: Callable[[], object], new: Callable[[], object]) -> None:
    """Kill ``new``, which writes a folder in the place of what ``old`` has written."""
    new()
    wanted = content(out)
    shutil.rmtree(out)
    old()
    before = content(out)
    assert before != wanted

    def renew() -> None:
        if content(out) != before:
            shutil.rmtree(out)
            old()

    seen = at_every_step(new, lambda: content(out), renew)
    assert {str(found) for found in seen} == {str(before), str(wanted)}
    assert seen == sorted(seen, key=lambda found: found == wanted), "the new one stays"
    new()
    assert temporaries(out.parent) == []


def test_a_run_in_the_place_of_another_run(kept: Path) -> None:
    old, new = open_run("runs/ce"), open_run("runs/lift-lp")
    out = kept / "run"
    replaced_folder(out, lambda: old.save(out, overwrite=True), lambda: new.save(out, True))
    assert open_run(out).method.name == "lift-lp"


def test_an_ensemble_in_the_place_of_another_one(kept: Path) -> None:
    runs, out = [open_run(f"runs/{name}") for name in ("ce", "lift-lp")], kept / "ensemble"
    old, new = ensemble(runs, weights=[1, 0]), ensemble(runs, weights=[0, 1])
    replaced_folder(out, lambda: old.save(out, overwrite=True), lambda: new.save(out, True))


def test_class_prompts_of_the_same_name(kept: Path) -> None:
    old = open_cache("cache").prompts()
    other = {**old.identity, "sentences": "of other sentences"}
    new = replace(old, mean=old.mean[::-1].copy(), identity=other)

    def read() -> bool:
        found = open_cache("cache").prompts()
        assert np.array_equal(found.mean, old.mean) or np.array_equal(found.mean, new.mean)
        assert found.texts == old.texts
        return bool(np.array_equal(found.mean, new.mean))

    seen = at_every_step(
        lambda: store_prompts("cache", new), read, lambda: store_prompts("cache", old)
    )
    assert seen == sorted(seen) and set(seen) == {False, True}


def test_scores_beside_a_run(kept: Path) -> None:
    run, out = open_run("runs/ce"), Path("runs/ce")
    before = content(out)

    def renew() -> None:
        for name in content(out).keys() - before.keys():
            (out / name).unlink()

    def write() -> None:
        evaluate(run, split="val", write=True)

    write()
    wanted = content(out)
    seen = at_every_step(write, lambda: content(out), renew)
    assert {str(found) for found in seen} == {str(before), str(wanted)}


@pytest.mark.filterwarnings("ignore:.*exported")
def test_an_export_is_whole_or_not_there(kept: Path) -> None:
    out = kept / "exported"
    with pytest.warns(UserWarning, match="exported") as told:
        export_cache("cache", out)
    assert [str(warning.message).partition(": ")[2][:33] for warning in told] == [
        "the view center alone is exported",
        "tokens are not exported: they nee",
    ]
    assert sorted(out.glob("*.npy")) == [out / "embedding.npy", out / "pooled.npy"]
    wanted = content(out)
    seen = at_every_step(
        lambda: export_cache("cache", out),
        lambda: content(out),
        lambda: shutil.rmtree(out, ignore_errors=True),
    )
    assert {str(found) for found in seen} == {str({}), str(wanted)}
    import_features(out, kept / "again")
    again, before = open_cache(kept / "again"), open_cache("cache")
    assert again.encoder == before.encoder and set(again.field_dims()) == {"embedding", "pooled"}
    assert np.array_equal(again.features(), before.features(), equal_nan=True)
