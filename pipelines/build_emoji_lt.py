"""Build Emoji-LT: a small long-tailed image set of emoji drawings, made like ImageNet-LT.

    npm pack @iconify/json@2.2.535 @lobehub/fluent-emoji-3d@1.1.0 emojibase-data@17.0.0
    for f in *.tgz; do mkdir -p DIR/${f%.tgz} && tar -xzf $f -C DIR/${f%.tgz}; done
    pip install resvg-py==0.5.0
    python -m pipelines.build_emoji_lt --npm DIR --out data_manifests/emoji_lt

A class is a Unicode subgroup with at least ten families; a family is an emoji with its gender and
direction variants. Families are split, never drawings: 5 for test and 2 for validation in every
class, the rest for training, sub-sampled by families to an exponential profile of imbalance ratio
50. Beside `--out` the script writes `OUT_natural` (all training families), `OUT_two_class` (one
rare subgroup against the rest) and `OUT_pool` (an unlabelled pool for retrieval). Under a minute on
one core; the same packages, resvg and Pillow give the same bytes.

Result: 56 classes, 14 many, 25 medium, 17 few; 3,922 training, 645 validation and 1,651 test images
(704, 111 and 280 families), largest class 300, smallest 6; 4,566 training images in natural counts;
a pool of 553 left-out drawings among 3,199 icons.
"""

from __future__ import annotations

import argparse
import collections
import csv
import hashlib
import io
import json
import random
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from pipelines.emoji_sources import (
    FLUENT_3D,
    VENDORS,
    Emoji,
    Sources,
    encode_webp,
    icon_words,
    on_white,
    render_svg,
    squash,
    squashed,
)

SIZE = 64
SEED = 0
MIN_FAMILIES, TEST_FAMILIES, VAL_FAMILIES = 10, 5, 2
IMBALANCE = 50
TWO_CLASS_RATIO = 40
RARE_SUBGROUP = "place-building"
DISTRACTORS = 3200
POOL_QUALITY = 80
TEMPLATES = ["{}", "a drawing of {}", "an emoji of {}", "an icon of {}", "a picture of {}"]
ICON_COLOURS = (
    "#222", "#000", "#c0392b", "#2471a3", "#1e8449", "#7d3c98", "#d68910", "#34495e", "#e91e63",
    "#00838f", "#5d4037", "#f57f17",
)  # fmt: skip

# Emojibase words a subgroup for a menu below its group's heading; alone, these need their noun.
READABLE = {
    "face-smiling": "smiling face",
    "face-affection": "affectionate face",
    "face-tongue": "face with tongue",
    "face-hand": "face with hands",
    "face-neutral-skeptical": "neutral or skeptical face",
    "face-sleepy": "sleepy face",
    "face-unwell": "unwell face",
    "face-hat": "face with hat",
    "face-glasses": "face with glasses",
    "face-concerned": "concerned face",
    "face-negative": "negative face",
    "face-costume": "costumed face or creature",
    "hand-fingers-open": "hand with open fingers",
    "hand-fingers-partial": "hand sign",
    "hand-single-finger": "pointing finger",
    "hand-fingers-closed": "hand with closed fingers",
    "person": "person",
    "person-gesture": "person making a gesture",
    "person-role": "person with a role or career",
    "person-fantasy": "fantasy person",
    "person-activity": "person doing an activity",
    "person-sport": "person doing sports",
    "person-resting": "person resting",
    "food-prepared": "prepared food",
    "food-asian": "asian food",
    "sky-weather": "sky and weather",
    "emotion": "emotion symbol",
    "other-object": "other object",
    "other-symbol": "other symbol",
}


@dataclass(frozen=True)
class Drawing:
    """One vendor's drawing of one emoji."""

    vendor: str
    source_name: str
    emoji: Emoji

    @property
    def path(self) -> str:
        return f"{self.vendor}/{self.emoji.key}.webp"


@dataclass
class Split:
    """Drawings by split; `left_out` are the training families that sub-sampling leaves out."""

    train: list[Drawing] = field(default_factory=list)
    val: list[Drawing] = field(default_factory=list)
    test: list[Drawing] = field(default_factory=list)
    natural: list[Drawing] = field(default_factory=list)
    left_out: list[Drawing] = field(default_factory=list)

    @property
    def lists(self) -> dict[str, list[Drawing]]:
        return {"train": self.train, "val": self.val, "test": self.test}


def class_name(subgroup: str, messages: Mapping[str, str]) -> str:
    """The readable name of a subgroup, fit for a prompt."""
    return READABLE.get(subgroup, messages[subgroup].replace(" / ", " or "))


def all_drawings(sources: Sources) -> list[Drawing]:
    """At most one drawing per vendor and emoji, in a fixed order."""
    found = []
    for vendor in VENDORS:
        if vendor == "fluent-emoji-3d":
            named = [(path.name, key) for path, key in sources.fluent_3d()]
        else:
            named = sources.vector_drawings(vendor)
        found += [Drawing(vendor, name, sources.emoji[key]) for name, key in named]
    return found


def by_class(drawings: Iterable[Drawing]) -> dict[str, list[Drawing]]:
    """Subgroup -> drawings, sorted, for subgroups with enough families.

    A family lives in the subgroup of its plainest emoji; its few relatives elsewhere (shaking heads
    of the smiling face) are left out, so that no family crosses classes or splits.
    """
    drawings = sorted(drawings, key=lambda d: len(d.emoji.key))
    home: dict[str, str] = {}
    groups: dict[str, list[Drawing]] = collections.defaultdict(list)
    for drawing in drawings:
        if home.setdefault(drawing.emoji.family, drawing.emoji.subgroup) == drawing.emoji.subgroup:
            groups[drawing.emoji.subgroup].append(drawing)
    return {
        subgroup: sorted(members, key=lambda d: d.path)
        for subgroup, members in sorted(groups.items())
        if len({d.emoji.family for d in members}) >= MIN_FAMILIES
    }


def shuffled_families(subgroup: str, drawings: Iterable[Drawing]) -> list[str]:
    """Families of a class in an order that depends on nothing but the class and the seed."""
    families = sorted({d.emoji.family for d in drawings})
    random.Random(f"{SEED}:{subgroup}").shuffle(families)
    return families


def exponential_targets(available: Mapping[str, int], ratio: float) -> dict[str, int]:
    """Class -> training images: `n_max * ratio ** (-i / (C - 1))` over classes sorted by size.

    A class that has fewer drawings keeps all of them; the smallest never does, so the ratio holds.
    """
    order = sorted(available, key=lambda c: (-available[c], c))
    smallest = round(available[order[0]] / ratio)
    largest = min(available[order[0]], round(smallest * ratio))
    exponent = {c: -i / (len(order) - 1) for i, c in enumerate(order)}
    return {c: min(available[c], round(largest * ratio ** exponent[c])) for c in order}


def take_families(
    drawings: Sequence[Drawing], families: Sequence[str], target: int
) -> tuple[list[Drawing], set[str]]:
    """Whole families in order until `target` drawings; the last one gives only what is missing."""
    taken: list[Drawing] = []
    used: set[str] = set()
    for family in families:
        if len(taken) == target:
            break
        members = [d for d in drawings if d.emoji.family == family]
        random.Random(f"{SEED}:{family}").shuffle(members)
        taken += members[: target - len(taken)]
        used.add(family)
    return taken, used


def split_drawings(classes: Mapping[str, list[Drawing]]) -> Split:
    """Families into test, validation and training; training sub-sampled to the profile."""
    split = Split()
    order = {c: shuffled_families(c, members) for c, members in classes.items()}
    held_out = TEST_FAMILIES + VAL_FAMILIES
    training = {
        c: [d for d in members if d.emoji.family in order[c][held_out:]]
        for c, members in classes.items()
    }
    targets = exponential_targets({c: len(v) for c, v in training.items()}, IMBALANCE)
    for c, members in classes.items():
        test, val = order[c][:TEST_FAMILIES], order[c][TEST_FAMILIES:held_out]
        split.test += [d for d in members if d.emoji.family in test]
        split.val += [d for d in members if d.emoji.family in val]
        taken, used = take_families(training[c], order[c][held_out:], targets[c])
        split.train += taken
        split.natural += training[c]
        split.left_out += [d for d in training[c] if d.emoji.family not in used]
    return split


def without_copies(split: Split, images: Mapping[str, Image.Image]) -> Split:
    """Leave out of validation what shows a test drawing again.

    A vendor may draw two emoji alike (the two hourglasses of fxemoji), and one emoji may be the
    ungendered form of another (person and man with a beard). They are of different families, so
    the split by families lets them pass; choosing on them would be choosing on the test split.
    """
    shown = {images[d.path].tobytes() for d in split.test}
    keys = {d.emoji.key for d in split.test}
    return replace(
        split,
        val=[
            d
            for d in split.val
            if images[d.path].tobytes() not in shown
            and not keys & {f"{d.emoji.key}-200d-{gender}" for gender in ("2640", "2642")}
        ],
    )


def render(drawings: Iterable[Drawing], sources: Sources) -> dict[str, Image.Image]:
    """Member path -> RGB image (SIZE, SIZE)."""
    sets = {v: sources.icon_set(v) for v in VENDORS if v != "fluent-emoji-3d"}
    assets = sources.root / FLUENT_3D / "package" / "assets"
    images = {}
    for d in drawings:
        if d.vendor == "fluent-emoji-3d":
            with Image.open(assets / d.source_name) as image:
                images[d.path] = on_white(image, SIZE)
        else:
            images[d.path] = render_svg(sets[d.vendor].svg(d.source_name, SIZE), SIZE)
    return images


def write_zip(path: Path, members: Mapping[str, bytes]) -> None:
    """A stored zip with sorted members and no clock in it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            archive.writestr(info, members[name])


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    path.write_text(buffer.getvalue(), "utf-8", newline="\n")


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8", newline="\n")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_lists(
    out: Path, lists: Mapping[str, Sequence[Drawing]], labels: Mapping[str, int]
) -> None:
    """`train.csv val.csv test.csv`, rows sorted by class, then vendor and emoji."""
    for split, drawings in lists.items():
        rows = sorted(
            (labels[d.emoji.subgroup], d.path, d.emoji.family, d.vendor, d.emoji.label)
            for d in drawings
        )
        write_csv(
            out / f"{split}.csv",
            ("path", "label", "unit", "vendor", "name"),
            ((path, label, unit, vendor, name) for label, path, unit, vendor, name in rows),
        )


def describe(train: Iterable[Drawing], labels: Mapping[str, int]) -> dict[str, list[str]]:
    """Label -> sentences from the labels and tags of training emoji only."""
    sentences: dict[int, set[str]] = collections.defaultdict(set)
    for d in train:
        of_class = sentences[labels[d.emoji.subgroup]]
        of_class.add(f"an emoji of {d.emoji.label}.")
        tags = [t for t in d.emoji.tags if t != d.emoji.label][:4]
        if tags:
            of_class.add(f"a drawing of {d.emoji.label}, which suggests {', '.join(tags)}.")
    return {str(label): sorted(sentences[label]) for label in sorted(sentences)}


def dataset_record(
    out: Path, name: str, title: str, description: str, groups: object, images: str
) -> dict[str, Any]:
    """The content of `dataset.json`; the lists and the archive must be written already."""
    files = ["classes.csv", "train.csv", "val.csv", "test.csv"]
    digests = {f: sha256(out / f) for f in files} | {"images.zip": sha256(out / images)}
    return {
        "name": name,
        "title": title,
        "description": description,
        "source": "Emoji drawings of six vendors from npm packages, labels of emojibase-data 17.0.0"
        " (MIT); built by pipelines/build_emoji_lt.py",
        "licence": VENDORS,
        "images": images,
        "templates": TEMPLATES,
        "groups": groups,
        "lists": {"train": "train.csv", "val": "val.csv", "test": "test.csv"},
        "sha256": digests,
    }


DEFAULT_GROUPS = {"many_above": 100, "few_below": 20}


def build_main(
    out: Path, classes: Mapping[str, str], split: Split, images: Mapping[str, bytes]
) -> None:
    """The long-tailed manifest with the archive that the variants share."""
    out.mkdir(parents=True, exist_ok=True)
    labels = {c: i for i, c in enumerate(classes)}
    used = {d.path for d in split.natural + split.val + split.test}
    write_zip(out / "images.zip", {p: images[p] for p in used})
    rows = [(i, classes[c], c) for c, i in labels.items()]
    write_csv(out / "classes.csv", ("label", "name", "source_id"), rows)
    write_lists(out, split.lists, labels)
    write_json(out / "descriptions.json", describe(split.train, labels))
    description = (
        f"{len(classes)} Unicode subgroups drawn by six vendors at {SIZE} px; families of emoji are"
        f" split, training follows an exponential profile of imbalance ratio {IMBALANCE}."
    )
    record = dataset_record(out, "emoji_lt", "Emoji-LT", description, DEFAULT_GROUPS, "images.zip")
    write_json(out / "dataset.json", record)
    (out / "ATTRIBUTION.md").write_text(attribution(), "utf-8", newline="\n")


def build_natural(out: Path, classes: Mapping[str, str], split: Split, archive: str) -> None:
    """The same classes and held-out lists with every training family."""
    out.mkdir(parents=True, exist_ok=True)
    labels = {c: i for i, c in enumerate(classes)}
    rows = [(i, classes[c], c) for c, i in labels.items()]
    write_csv(out / "classes.csv", ("label", "name", "source_id"), rows)
    write_lists(out, {**split.lists, "train": split.natural}, labels)
    write_json(out / "descriptions.json", describe(split.natural, labels))
    description = "Emoji-LT with all training families in their natural, mildly imbalanced numbers."
    record = dataset_record(
        out, "emoji_lt_natural", "Emoji-LT, natural counts", description, DEFAULT_GROUPS, archive
    )
    write_json(out / "dataset.json", record)


def two_class_train(natural: Sequence[Drawing]) -> list[Drawing]:
    """Every training drawing of the rare subgroup and TWO_CLASS_RATIO times as many others.

    Where the others do not suffice, the rare side gives up families until the ratio holds.
    """
    rest = [d for d in natural if d.emoji.subgroup != RARE_SUBGROUP]
    rare = [d for d in natural if d.emoji.subgroup == RARE_SUBGROUP]
    target = min(len(rare), len(rest) // TWO_CLASS_RATIO)
    rare, _ = take_families(rare, shuffled_families(RARE_SUBGROUP, rare), target)
    random.Random(SEED).shuffle(rest)
    return rare + rest[: TWO_CLASS_RATIO * len(rare)]


def build_two_class(out: Path, classes: Mapping[str, str], split: Split, archive: str) -> None:
    """One rare subgroup against all others."""
    out.mkdir(parents=True, exist_ok=True)
    labels = {c: int(c == RARE_SUBGROUP) for c in classes}
    rare = classes[RARE_SUBGROUP]
    rows = [(0, "something else", "rest"), (1, rare, RARE_SUBGROUP)]
    write_csv(out / "classes.csv", ("label", "name", "source_id"), rows)
    write_lists(out, {**split.lists, "train": two_class_train(split.natural)}, labels)
    record = dataset_record(
        out,
        "emoji_lt_two_class",
        f"Emoji-LT, {rare} against the rest",
        f"Two classes at {TWO_CLASS_RATIO}:1 with explicit groups: {rare} against everything else.",
        {"many": [0], "few": [1]},
        archive,
    )
    write_json(out / "dataset.json", record)


@dataclass(frozen=True)
class PoolItem:
    """One image of the pool with what only the scoring may know."""

    data: bytes
    label: str
    unit: str
    name: str
    source: str
    kind: str


def distractors(sources: Sources, held_out_labels: frozenset[str]) -> list[PoolItem]:
    """Icons of permissive sets, none named exactly like a validation or test emoji."""
    rng = random.Random(SEED)
    names = [
        (set_name, icon)
        for set_name in sources.permissive_sets()
        for icon in sources.icon_set(set_name).icons
        if len(words := icon_words(icon)) > 2 and squash(words) not in held_out_labels
    ]
    rng.shuffle(names)
    chosen = sorted(names[: DISTRACTORS * 5 // 4])  # some are blank or twins
    items: list[PoolItem] = []
    seen: set[bytes] = set()
    current = None
    for set_name, icon in chosen:
        if current is None or current.name != set_name:
            current = sources.icon_set(set_name)
        try:
            image = render_svg(current.svg(icon, SIZE, rng.choice(ICON_COLOURS)), SIZE)
        except ValueError:
            continue
        pixels = image.tobytes()
        if min(pixels) > 235 or pixels in seen:
            continue
        seen.add(pixels)
        items.append(PoolItem(encode_webp(image, POOL_QUALITY), "", "", icon, set_name, "icon"))
    rng.shuffle(items)
    # `light-bulb` loses its "light" as a word of style above; compare the full name as well.
    return [i for i in items[:DISTRACTORS] if squash(i.name) not in held_out_labels]


def pool_items(
    sources: Sources, split: Split, labels: Mapping[str, int], images: Mapping[str, Image.Image]
) -> list[PoolItem]:
    """Drawings of left-out families and distractors, in one random order."""
    items = [
        PoolItem(
            encode_webp(images[d.path], POOL_QUALITY),
            str(labels[d.emoji.subgroup]),
            d.emoji.family,
            d.emoji.label,
            d.vendor,
            "emoji",
        )
        for d in split.left_out
    ]
    held_out = squashed(d.emoji.label for d in split.val + split.test)
    items += distractors(sources, held_out)
    random.Random(SEED).shuffle(items)
    return items


def build_pool(out: Path, items: Sequence[PoolItem], sources: Sources) -> None:
    """The unlabelled pool, its truth for scoring, and the credits of every set in it."""
    out.mkdir(parents=True, exist_ok=True)
    named = {f"{i:05d}.webp": item for i, item in enumerate(items, 1)}
    write_zip(out / "images.zip", {name: item.data for name, item in named.items()})
    write_csv(out / "pool.csv", ("path",), ((name,) for name in named))
    write_csv(
        out / "truth.csv",
        ("path", "label_or_empty", "unit", "name", "source", "kind"),
        ((n, i.label, i.unit, i.name, i.source, i.kind) for n, i in named.items()),
    )
    files = ("pool.csv", "truth.csv", "images.zip")
    record = {
        "name": "emoji_lt_pool",
        "title": "Emoji-LT web pool",
        "description": "Unlabelled images for retrieval: drawings of families that Emoji-LT's"
        " training leaves out, among icons of permissive sets. truth.csv is for scoring only.",
        "source": "The vendors of Emoji-LT and icon sets of @iconify/json 2.2.535",
        "licence": icon_licences(items, sources),
        "images": "images.zip",
        "lists": {"pool": "pool.csv"},
        "sha256": {f: sha256(out / f) for f in files},
    }
    write_json(out / "dataset.json", record)
    (out / "ATTRIBUTION.md").write_text(pool_attribution(record["licence"]), "utf-8", newline="\n")


def icon_licences(items: Iterable[PoolItem], sources: Sources) -> dict[str, dict[str, str]]:
    """Set -> licence, attribution and package for every set in the pool."""
    licences = {}
    for name in sorted({item.source for item in items}):
        if name in VENDORS:
            licences[name] = VENDORS[name]
            continue
        entry = sources.collections[name]
        author = entry.get("author", {})
        licences[name] = {
            "licence": entry["license"]["spdx"],
            "attribution": " ".join(
                x for x in (entry["name"], "by", author.get("name"), author.get("url")) if x
            ),
            "package": f"@iconify/json 2.2.535 ({name})",
        }
    return licences


def attribution() -> str:
    """Credits of Emoji-LT."""
    lines = [
        "# Credits of Emoji-LT",
        "",
        f"The drawings were rendered at {SIZE} x {SIZE} pixels on white and stored as WebP; nothing"
        " else was changed.",
        "Labels, tags and subgroups come from emojibase-data 17.0.0 (MIT, Copyright"
        " Miles Johnson).",
        "",
        "| set | licence | attribution | package |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {v} | {r['licence']} | {r['attribution']} | {r['package']} |"
        for v, r in VENDORS.items()
    ]
    return "\n".join([*lines, "", *licence_links()]) + "\n"


def pool_attribution(licences: Mapping[str, Mapping[str, str]]) -> str:
    """Credits of the pool."""
    lines = [
        "# Credits of the Emoji-LT web pool",
        "",
        f"Rendered at {SIZE} x {SIZE} pixels on white, monochrome icons in one of"
        f" {len(ICON_COLOURS)} colours, stored as WebP. `truth.csv` names the set of each image.",
        "",
        "| set | licence | attribution | package |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {s} | {r['licence']} | {r['attribution']} | {r['package']} |"
        for s, r in licences.items()
    ]
    return "\n".join([*lines, "", *licence_links()]) + "\n"


def licence_links() -> list[str]:
    return [
        "Licence texts: [MIT](https://spdx.org/licenses/MIT.html),"
        " [Apache-2.0](https://www.apache.org/licenses/LICENSE-2.0),"
        " [CC-BY-4.0](https://creativecommons.org/licenses/by/4.0/),"
        " [CC-BY-3.0](https://creativecommons.org/licenses/by/3.0/),"
        " [CC0-1.0](https://creativecommons.org/publicdomain/zero/1.0/),"
        " [ISC](https://spdx.org/licenses/ISC.html),"
        " [OFL-1.1](https://openfontlicense.org/),"
        " [BSD-3-Clause](https://spdx.org/licenses/BSD-3-Clause.html),"
        " [Unlicense](https://unlicense.org/).",
    ]


def summary(classes: Mapping[str, str], split: Split) -> str:
    """What was built, in the words the documentation uses."""
    counts = collections.Counter(d.emoji.subgroup for d in split.train)
    many, few = (
        sum(n > DEFAULT_GROUPS["many_above"] for n in counts.values()),
        sum(n < DEFAULT_GROUPS["few_below"] for n in counts.values()),
    )
    sizes = {k: len(v) for k, v in split.lists.items()} | {"natural": len(split.natural)}
    families = {k: len({d.emoji.family for d in v}) for k, v in split.lists.items()}
    return (
        f"{len(classes)} classes: {many} many, {len(classes) - many - few} medium, {few} few;"
        f" images {sizes}; families {families}; largest class {max(counts.values())},"
        f" smallest {min(counts.values())}; left-out drawings {len(split.left_out)}"
    )


def build(sources: Sources, out: Path) -> str:
    """Write the main manifest, its variants and the pool; return a summary."""
    drawn = by_class(all_drawings(sources))
    classes = {c: class_name(c, sources.subgroup_messages) for c in drawn}
    split = split_drawings(drawn)
    images = render(split.natural + split.val + split.test, sources)
    whole, split = split, without_copies(split, images)
    build_main(out, classes, split, {p: encode_webp(i) for p, i in images.items()})
    archive = f"../{out.name}/images.zip"
    build_natural(out.with_name(f"{out.name}_natural"), classes, split, archive)
    build_two_class(out.with_name(f"{out.name}_two_class"), classes, split, archive)
    labels = {c: i for i, c in enumerate(classes)}
    items = pool_items(sources, whole, labels, images)
    build_pool(out.with_name(f"{out.name}_pool"), items, sources)
    return summary(classes, split)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--npm", type=Path, required=True, help="folder of unpacked npm packages")
    parser.add_argument("--out", type=Path, default=Path("data_manifests/emoji_lt"))
    args = parser.parse_args()
    print(build(Sources(args.npm), args.out))


if __name__ == "__main__":
    main()
