"""Damaged shards are removed and encoded again, exactly these, to the same bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ltcache.cli import main
from ltcache.encoder import Encoder, load_encoder
from ltcache.errors import CacheError
from ltcache.examine.verify import verify
from ltcache.extract import extract
from tests.conftest import Call, write_images
from tests.extract.kill_driver import digests
from tests.extract.test_views import listed

SMALL: dict[str, Any] = {"shard_size": 4, "batch_size": 3}


@pytest.fixture(scope="module")
def encoder(tiny_clip: Path) -> Encoder:
    return load_encoder(f"local-dir:{tiny_clip}")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_images(tmp_path_factory.mktemp("images") / "set", {"a": 7, "b": 3})
    (root / "a" / "003.png").write_text("no image")
    return root


@pytest.fixture(scope="module")
def made(images: Path, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache of two views that grew once: shards of 4, 2 and 4 images."""
    out = tmp_path_factory.mktemp("made") / "cache"
    uris = listed(images).rows["uri"].to_pylist()
    extract(listed(images, uris[:6]), out, encoder=encoder, views=("flip",), **SMALL)
    extract(listed(images), out, encoder=encoder)
    return out


@pytest.fixture(scope="module")
def labelled(images: Path, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache of two classes with images to train on."""
    out = tmp_path_factory.mktemp("labelled") / "cache"
    extract(images, out, encoder=encoder, **SMALL)
    return out


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def garble(path: Path) -> None:
    path.write_text("{")


def reword(path: Path) -> None:
    """Change a record so that it is one still."""
    value = json.loads(path.read_text())
    value["width"][0] += 1
    path.write_text(json.dumps(value))


DAMAGES: list[tuple[str, Callable[[Path], None]]] = [
    ("center/00000.h5", flip_byte),
    ("center/00000.h5", cut),
    ("flip/00002.h5", flip_byte),
    ("flip/00001.h5", Path.unlink),
    ("center/00002.json", garble),
    ("center/00001.json", Path.unlink),
    ("flip/00000.json", reword),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_exactly_the_damaged_shard_is_encoded_again(
    images: Path,
    made: Path,
    encoder: Encoder,
    tmp_path: Path,
    name: str,
    damage: Callable[[Path], None],
) -> None:
    out = Path(shutil.copytree(made, tmp_path / "cache"))
    before = digests(out)
    damage(out / "views" / name)
    assert verify(out).exit_status == 1
    kept = {
        key: sha for key, sha in digests(out).items() if not key.startswith(f"views/{name[:-5]}")
    }
    report = verify(out, repair=True)
    stem = f"views/{name.rpartition('.')[0]}"
    assert report.repaired == (stem,)
    assert (report.exit_status, report.left) == (0, ())
    assert digests(out) == {k: v for k, v in before.items() if not k.startswith(f"{stem}.")}
    assert kept.items() >= {k: v for k, v in digests(out).items() if k in kept}.items()
    images_of = {"00000": 3, "00001": 2, "00002": 4}  # one of the first four is no image
    assert extract(listed(images), out, encoder=encoder).encoded == images_of[stem[-5:]]
    assert digests(out) == before
    assert verify(out).exit_status == 0


def test_a_repair_says_what_to_run_and_ends_well(made: Path, tmp_path: Path, call: Call) -> None:
    out = Path(shutil.copytree(made, tmp_path / "cache"))
    flip_byte(out / "views/center/00000.h5")
    status, shown, err = call("verify", out, "--repair")
    assert (status, err) == (0, "")
    assert "REPAIRED: all that was found damaged is removed; run the same ltcache extract" in shown
    assert "DAMAGED" not in shown


def test_a_repair_that_leaves_damage_says_so(made: Path, tmp_path: Path, call: Call) -> None:
    out = Path(shutil.copytree(made, tmp_path / "cache"))
    flip_byte(out / "views/center/00000.h5")
    flip_byte(out / "classes.json")
    status, shown, err = call("verify", out, "--repair")
    assert status == 1
    assert "removed 1 damaged shards" in shown
    assert "DAMAGED: 1 problems are left, which --repair cannot remove" in shown
    assert "classes.json" in err and "00000" not in err


@pytest.mark.parametrize(
    "name",
    [
        "views/center/00000.h5",
        "manifest",
        "classes.json",
        "prompts",
        "encoder.json",
        "encoder.safetensors",
    ],
)
@pytest.mark.parametrize("command", ["zero-shot", "fit-adapter"])
def test_a_flipped_byte_is_refused_by_who_reads_it(
    labelled: Path, tmp_path: Path, call: Call, name: str, command: str
) -> None:
    out = Path(shutil.copytree(labelled, tmp_path / "cache"))
    index = json.loads((out / "cache.json").read_text())
    named = {"manifest": index["manifest"], "prompts": index["prompts"]["default"][0]}
    damaged = out / named.get(name, name)
    flip_byte(damaged)
    more = (
        ("--split", "train")
        if command == "zero-shot"
        else ("--method", "lift-lp", "--out", tmp_path / "run", "-s", "optimisation.epochs=1")
    )
    status, _, err = call(command, out, *more)
    assert status == 1
    assert damaged.name in err and "SHA-256" in err and "Remedy: " in err
    assert not (tmp_path / "run").exists()


def test_what_is_no_shard_is_left_alone_and_named(
    made: Path, images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(made, tmp_path / "cache"))
    (out / "classes.json").write_text("{}")
    before = digests(out)
    report = verify(out, repair=True)
    assert (report.repaired, len(report.problems)) == ((), 1)
    with pytest.raises(CacheError, match=r"classes\.json.*the cache is damaged"):
        extract(listed(images), out, encoder=encoder)
    assert digests(out) == before


def test_an_unfinished_cache_is_checked_and_repaired(
    images: Path, encoder: Encoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cache"

    def stop(progress: Any) -> None:
        if progress.done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(listed(images), out, encoder=encoder, views=("flip",), progress=stop, **SMALL)
    whole = digests(out)
    shards = len(list(out.glob("views/*/*.json")))
    report = verify(out)
    assert (report.ok, report.finished, report.exit_status) == (True, False, 1)
    assert (report.shards, report.all_shards, report.all_items) == (shards, 6, 20)
    with pytest.raises(SystemExit) as end:
        main(["verify", str(out)])
    assert end.value.code == 1
    shown = capsys.readouterr().out
    assert f"NOT FINISHED: {shards} of 6 shards are committed" in shown
    assert "what is committed is fine" in shown
    flip_byte(out / "views/flip/00000.h5")
    garble(out / "views/center/00001.json")
    with pytest.raises(SystemExit) as end:
        main(["verify", str(out), "--repair"])
    assert end.value.code == 1
    shown = capsys.readouterr().out
    assert "removed 2 damaged shards (views/center/00001, views/flip/00000)" in shown
    assert "REPAIRED" in shown and "DAMAGED" not in shown
    gone = ("views/flip/00000.", "views/center/00001.")
    assert digests(out) == {k: v for k, v in whole.items() if not k.startswith(gone)}
    extract(listed(images), out, encoder=encoder, views=("flip",), **SMALL)
    extract(listed(images), tmp_path / "fresh", encoder=encoder, views=("flip",), **SMALL)
    assert digests(out) == digests(tmp_path / "fresh")


def test_a_folder_that_is_no_cache_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="not a feature cache"):
        verify(tmp_path)
