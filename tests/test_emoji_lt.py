"""The shipped Emoji-LT manifests keep what their description promises."""

from __future__ import annotations

import collections
import csv
import hashlib
import io
import json
import math
import re
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1] / "data_manifests"
MANIFESTS = ("emoji_lt", "emoji_lt_natural", "emoji_lt_two_class")
PERMISSIVE = {
    "MIT", "Apache-2.0", "CC-BY-4.0", "CC-BY-3.0", "CC0-1.0", "ISC", "OFL-1.1", "Unlicense",
    "BSD-3-Clause",
}  # fmt: skip
VENDORS = {"twemoji", "noto", "fluent-emoji-flat", "emojione", "fxemoji", "fluent-emoji-3d"}


def rows(name: str, file: str) -> list[dict[str, str]]:
    with (ROOT / name / file).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def record(name: str) -> dict:
    return json.loads((ROOT / name / "dataset.json").read_text("utf-8"))


def units(name: str, split: str) -> set[str]:
    return {row["unit"] for row in rows(name, f"{split}.csv")}


def squash(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


@pytest.mark.parametrize("name", MANIFESTS)
def test_lists_are_complete_and_match_their_digests(name: str) -> None:
    folder, data = ROOT / name, record(name)
    assert data["name"] == name
    for file, digest in data["sha256"].items():
        path = folder / (data["images"] if file == "images.zip" else file)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest, file
    assert set(data["sha256"]) == {*data["lists"].values(), "classes.csv", "images.zip"}
    labels = [int(row["label"]) for row in rows(name, "classes.csv")]
    assert labels == list(range(len(labels)))
    with zipfile.ZipFile(folder / data["images"]) as archive:
        members = set(archive.namelist())
    for file in data["lists"].values():
        listed = rows(name, file)
        assert list(listed[0]) == ["path", "label", "unit", "vendor", "name"]
        assert {row["path"] for row in listed} <= members
        assert {int(row["label"]) for row in listed} == set(labels)
        assert len({row["path"] for row in listed}) == len(listed)


@pytest.mark.parametrize("name", MANIFESTS)
def test_no_family_crosses_splits(name: str) -> None:
    splits = [units(name, split) for split in ("train", "val", "test")]
    assert not splits[0] & splits[1] and not splits[0] & splits[2] and not splits[1] & splits[2]


def test_no_label_crosses_splits() -> None:
    names = [{r["name"] for r in rows("emoji_lt", f"{s}.csv")} for s in ("val", "test")]
    train = {r["name"] for r in rows("emoji_lt_natural", "train.csv")}
    assert not train & names[0] and not train & names[1]


def test_held_out_lists_are_shared_and_balanced() -> None:
    for file, families in (("val.csv", 2), ("test.csv", 5)):
        main = rows("emoji_lt", file)
        assert main == rows("emoji_lt_natural", file)
        two_class = rows("emoji_lt_two_class", file)
        assert {r["path"] for r in main} == {r["path"] for r in two_class}
        per_class = collections.defaultdict(set)
        for row in main:
            per_class[row["label"]].add(row["unit"])
        sizes = collections.Counter(len(found) for found in per_class.values())
        lost = 1 if file == "val.csv" else 0  # the person with a beard; a man with one is in test
        assert sizes == collections.Counter({families: 56 - lost, **({1: 1} if lost else {})})


def test_no_validation_drawing_is_a_test_drawing() -> None:
    with zipfile.ZipFile(ROOT / "emoji_lt" / "images.zip") as archive:
        shown = [
            {archive.read(row["path"]) for row in rows("emoji_lt", f"{split}.csv")}
            for split in ("val", "test")
        ]
    assert not shown[0] & shown[1]


def test_training_counts_fall_exponentially() -> None:
    counts = collections.Counter(r["label"] for r in rows("emoji_lt", "train.csv"))
    available = collections.Counter(r["label"] for r in rows("emoji_lt_natural", "train.csv"))
    order = sorted(available, key=lambda c: (-available[c], int(c)))
    sizes = sorted(counts.values(), reverse=True)
    assert sizes[0] / sizes[-1] == 50
    profile = [sizes[0] * 50 ** (-i / (len(order) - 1)) for i in range(len(order))]
    observed = [counts[c] for c in order]
    for size, wanted, most in zip(observed, profile, (available[c] for c in order), strict=False):
        assert size == min(most, round(wanted)) or abs(size - min(most, wanted)) <= 1
    assert max(abs(math.log(a / b)) for a, b in zip(sizes, profile, strict=False)) < math.log(2)
    groups = [sum(n > 100 for n in sizes), sum(n < 20 for n in sizes)]
    assert (len(sizes), *groups, sum(sizes)) == (56, 14, 17, 3922)


def test_training_is_a_part_of_the_natural_list() -> None:
    natural = {r["path"] for r in rows("emoji_lt_natural", "train.csv")}
    assert {r["path"] for r in rows("emoji_lt", "train.csv")} < natural


def test_two_class_list_is_forty_to_one() -> None:
    counts = collections.Counter(r["label"] for r in rows("emoji_lt_two_class", "train.csv"))
    assert counts["0"] == 40 * counts["1"]
    assert record("emoji_lt_two_class")["groups"] == {"many": [0], "few": [1]}


def test_every_member_decodes_at_the_stated_size() -> None:
    for name in ("emoji_lt", "emoji_lt_pool"):
        with zipfile.ZipFile(ROOT / name / "images.zip") as archive:
            for info in archive.infolist():
                assert info.compress_type == zipfile.ZIP_STORED
                with Image.open(io.BytesIO(archive.read(info))) as image:
                    image.load()
                    assert (image.size, image.format) == ((64, 64), "WEBP"), info.filename


def test_archives_stay_small() -> None:
    assert (ROOT / "emoji_lt" / "images.zip").stat().st_size <= 12e6
    assert sum(f.stat().st_size for f in (ROOT / "emoji_lt_pool").iterdir()) <= 5e6


@pytest.mark.parametrize("name", [*MANIFESTS, "emoji_lt_pool"])
def test_licences_are_permissive_and_credited(name: str) -> None:
    licences = record(name)["licence"]
    assert {entry["licence"] for entry in licences.values()} <= PERMISSIVE
    assert all(entry["attribution"] and entry["package"] for entry in licences.values())
    if name != "emoji_lt_pool":
        assert set(licences) == VENDORS
    credits = "emoji_lt_pool" if name == "emoji_lt_pool" else "emoji_lt"
    text = (ROOT / credits / "ATTRIBUTION.md").read_text("utf-8")
    assert all(f"| {source} |" in text for source in licences)


def test_descriptions_come_from_training_families() -> None:
    described = json.loads((ROOT / "emoji_lt" / "descriptions.json").read_text("utf-8"))
    assert set(described) == {row["label"] for row in rows("emoji_lt", "classes.csv")}
    labels = collections.defaultdict(set)
    for row in rows("emoji_lt", "train.csv"):
        labels[row["label"]].add(row["name"])
    for label, sentences in described.items():
        starts = tuple(f"{a} of {n}" for n in labels[label] for a in ("an emoji", "a drawing"))
        assert sentences and all(s.startswith(starts) for s in sentences)


def test_pool_holds_left_out_families_among_distractors() -> None:
    truth = rows("emoji_lt_pool", "truth.csv")
    pool = [row["path"] for row in rows("emoji_lt_pool", "pool.csv")]
    assert pool == [row["path"] for row in truth]
    with zipfile.ZipFile(ROOT / "emoji_lt_pool" / "images.zip") as archive:
        assert sorted(archive.namelist()) == sorted(pool)
    emoji = [row for row in truth if row["kind"] == "emoji"]
    icons = [row for row in truth if row["kind"] == "icon"]
    assert len(icons) >= 3000 and len(emoji) >= 500 and len(emoji) + len(icons) == len(truth)
    known = units("emoji_lt", "train") | units("emoji_lt", "val") | units("emoji_lt", "test")
    natural = units("emoji_lt_natural", "train")
    assert all(row["unit"] in natural - known and row["label_or_empty"] for row in emoji)
    held_out = {squash(r["name"]) for s in ("val", "test") for r in rows("emoji_lt", f"{s}.csv")}
    assert all(squash(row["name"]) not in held_out for row in icons)
    assert not any(row["label_or_empty"] or row["unit"] for row in icons)
    for file, digest in record("emoji_lt_pool")["sha256"].items():
        path = ROOT / "emoji_lt_pool" / file
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
