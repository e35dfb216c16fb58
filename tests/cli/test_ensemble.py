"""``ltcache ensemble`` as a person types it, on two caches of one list by different encoders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ltcache.cli import main
from ltcache.manifest import ClassList, Manifest
from ltcache.transfer import import_features
from tests.conftest import Call

COUNTS = (40, 20, 10, 6)
HELD_OUT = 8


def _write_cache(out: Path, dim: int, seed: int, text: bool, first: int = 0) -> Path:
    """Write features of the same list, its rows in an order of their own, from row ``first`` on."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(len(COUNTS), dim))
    sizes = {"train": COUNTS} | dict.fromkeys(("val", "test"), (HELD_OUT,) * len(COUNTS))
    label = np.concatenate([np.repeat(np.arange(len(COUNTS)), n) for n in sizes.values()])
    split = np.concatenate([np.full(sum(n), name) for name, n in sizes.items()])
    order = rng.permutation(np.arange(first, len(label)))
    table = pa.table(
        {
            "row_id": np.arange(len(order)),
            "key": [f"{n}.png" for n in order],
            "uri": [f"{n}.png" for n in order],
            "label": label[order],
            "split": split[order],
            "unit": [f"u{n // 2}" for n in order],
        }
    )
    names = tuple(f"class {c}" for c in range(len(COUNTS)))
    values = means[label] + 1.2 * rng.normal(size=(len(label), dim))
    np.savez(out.with_suffix(".npz"), features=values[order].astype(np.float16))
    import_features(
        out.with_suffix(".npz"),
        out,
        manifest=Manifest("list", table, ClassList(names, (None,) * len(names))),
        text=means if text else None,
        logit_scale=5.0,
    )
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a cache and a run of a dual encoder, and both of an image-only one."""
    root = tmp_path_factory.mktemp("ensemble")
    for name, dim, text in (("clip", 6, True), ("vision", 5, False)):
        cache = _write_cache(root / f"{name}-cache", dim, dim, text, 3 if text else 0)
        with pytest.raises(SystemExit) as caught:
            main(["fit-adapter", str(cache), "--method", "ncm", "--out", str(root / name)])
        assert caught.value.code == 0
    return root


def test_a_run_with_zero_shot_of_its_cache(call: Call, made: Path, tmp_path: Path) -> None:
    status, out, _ = call("ensemble", made / "clip", "zero-shot", "--out", tmp_path / "e")
    assert status == 0
    for row in (made / "clip", "zero-shot", "ensemble"):
        assert f"| {row} " in out
    assert "chosen on val by mean accuracy per class, of 21" in out
    assert "ensemble - best member (" in out and "16 units" in out
    assert "different encoders" not in out and "lacks" not in out
    numbers = json.loads((tmp_path / "e" / "metrics.json").read_text())
    alone = json.loads(call("evaluate", made / "clip", "--json")[1])
    member = numbers["members"][str(made / "clip")]["test"]
    assert member["per_class"] == alone["per_class"]
    record = json.loads((tmp_path / "e" / "ensemble.json").read_text())
    assert (tmp_path / "e" / record["members"][0]["run"] / "run.json").is_file()
    assert (tmp_path / "e" / record["members"][1]["cache"] / "cache.json").is_file()


def test_an_image_only_network_with_clip(call: Call, made: Path, tmp_path: Path) -> None:
    members = (made / "vision", made / "clip", "zero-shot")
    given = ("--space", "logits", "--weights", "2,1,1", "--split", "val")
    status, out, _ = call("ensemble", *members, "--out", tmp_path / "e", *given)
    assert status == 0
    assert f"0.5 {made / 'vision'}, 0.25 {made / 'clip'}, 0.25 zero-shot (given)" in out
    assert "2 different encoders, by design" in out
    status, out, _ = call(
        "ensemble", made / "vision", f"zero-shot:{made / 'clip-cache'}",
        "--out", tmp_path / "f", "--json",
    )  # fmt: skip
    assert status == 0
    found = json.loads(out)
    assert found["metrics"]["splits"]["test"]["num_rows"] == len(COUNTS) * HELD_OUT
    assert found["tuned_on"] == {"weights": "val"}
    assert sum(found["metrics"]["weights"].values()) == pytest.approx(1)


def test_rows_that_a_cache_lacks_are_told(call: Call, made: Path, tmp_path: Path) -> None:
    pair = (made / "vision", made / "clip", "--weights", "1,1")
    status, out, _ = call("ensemble", *pair, "--out", tmp_path / "e", "--split", "train")
    assert status == 0
    assert f"train: {made / 'clip'} lacks 3 rows that others have (0 of them in another" in out
    assert "left out: " in out and f"train split, {sum(COUNTS) - 3} images" in out


def test_what_is_refused_and_how(call: Call, made: Path, tmp_path: Path) -> None:
    pair = (made / "vision", made / "clip")
    out = ("--out", tmp_path / "e")
    caches = ("--cache", made / "clip-cache", "--cache", made / "vision-cache")
    status, shown, err = call("ensemble", *pair, *out, *caches)
    assert (status, shown) == (4, "") and "the encoder differs" in err
    for arguments, match in (
        ((made / "vision", "zero-shot", *out), "zero-shot:CACHE"),
        ((made / "vision", *out), "two members or more"),
        ((*pair, *out, "--weights", "a,b"), "expected numbers"),
        ((*pair, *out, "--weights", "1"), "1 weights for 2 members"),
        ((*pair, *out, "--space", "odds"), "odds"),
        ((*pair, made / "none", *out), "no run here"),
        (pair, "--out"),
    ):
        status, shown, err = call("ensemble", *arguments)
        assert (status, shown) == (2, "") and match in err
    assert not (tmp_path / "e").exists()
    assert call("ensemble", *pair, *out)[0] == 0
    assert call("ensemble", *pair, *out)[0] == 0
    other = ("--space", "logits", "--weights", "1,3")
    status, _, err = call("ensemble", *pair, *out, *other)
    assert status == 2 and "--overwrite" in err
    assert call("ensemble", *pair, *out, *other, "--overwrite")[0] == 0


def test_the_help_teaches(call: Call) -> None:
    status, out, _ = call("ensemble", "--help")
    assert status == 0 and "ltcache ensemble runs/lift-lp zero-shot" in out and "--json" in out
