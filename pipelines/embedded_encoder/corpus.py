"""The training corpus of the embedded encoder: drawings, icons and clip art with captions.

Four kinds of images, all at `PX` pixels on white: emoji drawings of sets that Emoji-LT does not
use, colour icons, monochrome icons in random colours, public-domain clip art. `LeakGuard` keeps out
everything that Emoji-LT or its pool holds and every concept of its validation and test splits, and
`check` asserts it again on the finished corpus.
"""

from __future__ import annotations

import collections
import csv
import hashlib
import json
import multiprocessing
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.build_emoji_lt import SIZE, all_drawings, class_name, render
from pipelines.emoji_sources import Sources, icon_words, render_svg, squash, squashed

PX = 96
EMOJI_SETS = ("noto-v1", "streamline-emojis", "fluent-emoji")
MONO_ICONS = 30_000
COPIES_PER_NAME = 8
CLIPART_BYTES = 400_000
COLOURS = (
    "#222", "#000", "#c0392b", "#2471a3", "#1e8449", "#7d3c98", "#d68910", "#34495e", "#e91e63",
    "#00838f", "#5d4037", "#f57f17",
)  # fmt: skip
BADGE_SHARE = 0.25  # of the monochrome icons become white on a coloured, rounded square
_CLIPART_NOISE = frozenset(
    [
        "architetto",
        "the",
        "clip",
        "art",
        "arch",
        "svg",
        "francesco",
        "rollandin",
        "remix",
        "of",
        "and",
        "with",
    ]
)


@dataclass(frozen=True)
class Example:
    """One training image: where it comes from and what it may be called."""

    kind: str  # emoji | colour | mono | clipart
    source: str  # icon set, or folder of the clip art
    name: str  # icon name, or path of the clip art
    captions: tuple[str, ...]
    class_names: tuple[str, ...] = ()  # words of the Unicode subgroup, or folders of clip art
    key: str = ""  # Unicode key, emoji only


@dataclass(frozen=True)
class LeakGuard:
    """What must not be trained on, read from the shipped manifests and their sources."""

    families: frozenset[str]  # of validation and test
    labels: frozenset[str]  # squashed labels of validation and test emoji
    drawings: frozenset[tuple[str, str]]  # (set, name) of Emoji-LT and the pool
    hashes: frozenset[str]  # of their pixels at SIZE, monochrome icons in one colour

    def allows_name(self, source: str, name: str, words: str) -> bool:
        named = {squash(words), squash(name)} & self.labels
        return (source, name) not in self.drawings and not named


def pixel_hash(image: Image.Image) -> str:
    """SHA-256 of RGB pixels: equal drawings in different sets collide on purpose."""
    return hashlib.sha256(image.tobytes()).hexdigest()


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def leak_guard(sources: Sources, manifests: Path) -> LeakGuard:
    """The guard for `manifests/emoji_lt` and `manifests/emoji_lt_pool`."""
    held_out = [r for s in ("val", "test") for r in read_rows(manifests / "emoji_lt" / f"{s}.csv")]
    families = frozenset(row["unit"] for row in held_out)
    labels = [row["name"] for row in held_out]
    labels += [e.label for e in sources.emoji.values() if e.family in families]
    drawn = all_drawings(sources)
    images = render(drawn, sources)
    hashes = {pixel_hash(image) for image in images.values()}
    drawings = {(d.vendor, d.source_name) for d in drawn}
    for row in read_rows(manifests / "emoji_lt_pool" / "truth.csv"):
        if row["kind"] == "icon":
            drawings.add((row["source"], row["name"]))
    for name, icons in by_source(d for d in drawings if d[0] in sources.permissive_sets()):
        icon_set = sources.icon_set(name)
        hashes |= {pixel_hash(render_svg(icon_set.svg(i, SIZE), SIZE)) for i in icons}
    return LeakGuard(families, squashed(labels), frozenset(drawings), frozenset(hashes))


def by_source(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = collections.defaultdict(list)
    for source, name in sorted(pairs):
        groups[source].append(name)
    return sorted(groups.items())


def subgroup_names(subgroup: str, sources: Sources) -> tuple[str, ...]:
    """The class name used in prompts, twice, and the words of Unicode's key."""
    readable = class_name(subgroup, sources.subgroup_messages)
    return (readable, readable, subgroup.replace("-", " "))


def names_by_label(sources: Sources, guard: LeakGuard) -> dict[str, tuple[str, ...]]:
    """Squashed label of a training emoji -> names of its subgroup, for icons of that very name."""
    return {
        squash(e.label): subgroup_names(e.subgroup, sources)
        for e in sources.emoji.values()
        if e.family not in guard.families
    }


def emoji_examples(sources: Sources, guard: LeakGuard, sets: Sequence[str]) -> list[Example]:
    """Drawings of training families by sets outside Emoji-LT, with label, tags and subgroup."""
    found = []
    for set_name in sets:
        for name, key in sources.vector_drawings(set_name, variants=True):
            emoji = sources.emoji[key]
            if emoji.family in guard.families:
                continue
            names = subgroup_names(emoji.subgroup, sources)
            captions = (emoji.label,) * 4 + emoji.tags[:6]
            found.append(Example("emoji", set_name, name, captions, names, key))
    return found


def icon_examples(sources: Sources, guard: LeakGuard, rng: random.Random) -> list[Example]:
    """All colour icons and a sample of monochrome ones, one style for each set and name."""
    colour, mono = [], []
    class_names = names_by_label(sources, guard)
    for set_name in sources.permissive_sets():
        palette = bool(sources.collections[set_name].get("palette"))
        names = list(sources.icon_set(set_name).icons)
        rng.shuffle(names)
        kept: dict[str, str] = {}
        for name in names:
            words = icon_words(name)
            if len(words) > 2 and guard.allows_name(set_name, name, words):
                kept.setdefault(words, name)
        kind, target = ("colour", colour) if palette else ("mono", mono)
        target += [
            Example(kind, set_name, n, (w,), class_names.get(squash(w), ()))
            for w, n in kept.items()
        ]
    return colour + sample_mono(mono, sources, rng)


def sample_mono(icons: list[Example], sources: Sources, rng: random.Random) -> list[Example]:
    """MONO_ICONS of `icons`: few of one name, and mostly with words that emoji use too."""
    emoji_words = {
        w for e in sources.emoji.values() for t in (e.label, *e.tags) for w in t.split()
    } - {"with", "and", "in", "the", "of", "a", "on", "no", "left", "right", "up", "down"}
    rng.shuffle(icons)
    count: collections.Counter[str] = collections.Counter()
    familiar, other = [], []
    for icon in icons:
        count[icon.captions[0]] += 1
        if count[icon.captions[0]] <= COPIES_PER_NAME:
            known = any(w in emoji_words for w in icon.captions[0].split())
            (familiar if known else other).append(icon)
    familiar = familiar[: int(0.85 * MONO_ICONS)]
    return familiar + other[: MONO_ICONS - len(familiar)]


def clipart_examples(folder: Path, guard: LeakGuard) -> list[Example]:
    """Public-domain clip art of Debian's `openclipart-svg`, with title, tags and folder."""
    found = []
    for path in sorted(folder.rglob("*.svg")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or path.stat().st_size > CLIPART_BYTES:
            continue
        if re.search("/stars/|gradient|theme|flag", name):
            continue
        text = path.read_text("utf-8", "replace")
        if "GPL" in text or ("PublicDomain" not in text and "publicdomain" not in text):
            continue
        captions = clipart_captions(text, path)
        if captions and not any(squash(c) in guard.labels for c in (*captions, path.stem)):
            folders = tuple(reversed(name.replace("_", " ").split("/")[:-1]))
            folders = tuple(f for f in folders if f != "unsorted")
            found.append(Example("clipart", path.parent.name, name, captions, folders))
    return found


def clipart_captions(text: str, path: Path) -> tuple[str, ...]:
    """Title three times, then up to four tags; empty if the title says nothing."""
    title = re.search(r"<dc:title[^>]*>([^<]+)</dc:title>", text)
    raw = title.group(1) if title else path.stem
    words = re.sub(r"[^a-z ]+", " ", raw.lower()).split()
    words = [w for w in words if w not in _CLIPART_NOISE and len(w) > 1]
    if not words:
        return ()
    tags = [t.strip().lower().replace("_", " ") for t in re.findall(r"<rdf:li>([^<]+)<", text)]
    tags = [t for t in tags if t and t != "unsorted" and "clip" not in t]
    return (" ".join(words[:6]),) * 3 + tuple(tags[:4])


def badge(svg: str, px: int, colour: str) -> str:
    """White drawing -> the same, smaller, on a rounded coloured square, as on buttons and signs."""
    radius = px // 6
    inner = svg.replace('fill="#fff"/>', 'fill="none"/>', 1)
    inner = inner.replace("<svg ", f'<svg x="{px * 0.15}" y="{px * 0.15}" ', 1)
    inner = inner.replace(f'width="{px}" height="{px}"', f'width="{px * 0.7}" height="{px * 0.7}"')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{px}" height="{px}">'
        f'<rect width="{px}" height="{px}" fill="#fff"/>'
        f'<rect width="{px}" height="{px}" rx="{radius}" fill="{colour}"/>{inner}</svg>'
    )


def render_group(job: tuple[Path, Path | None, str, list[Example], frozenset[str]]) -> list[bytes]:
    """RGB bytes for each example of one source; empty bytes where it is blank or forbidden."""
    root, clipart, source, examples, forbidden = job
    rng = random.Random(source)
    icons = None if examples[0].kind == "clipart" else Sources(root).icon_set(source)
    out = []
    for example in examples:
        try:
            if icons is None:
                assert clipart is not None
                image = render_svg((clipart / example.name).read_text("utf-8", "replace"), PX)
                plain = image.resize((SIZE, SIZE))
            else:
                plain = render_svg(icons.svg(example.name, SIZE), SIZE)
                colour = rng.choice(COLOURS)
                svg = icons.svg(example.name, PX, colour)
                if example.kind == "mono" and rng.random() < BADGE_SHARE:
                    svg = badge(icons.svg(example.name, PX, "#fff"), PX, colour)
                image = render_svg(svg, PX)
        except (ValueError, OSError):
            out.append(b"")
            continue
        pixels = image.tobytes()
        out.append(b"" if min(pixels) > 235 or pixel_hash(plain) in forbidden else pixels)
    return out


def build(
    sources: Sources, manifests: Path, clipart: Path | None, out: Path, seed: int
) -> list[Example]:
    """Collect, render, check and store the corpus: `examples.json` and `images.npy` in `out`."""
    guard = leak_guard(sources, manifests)
    examples = emoji_examples(sources, guard, EMOJI_SETS)
    examples += icon_examples(sources, guard, random.Random(seed))
    if clipart is not None:
        examples += clipart_examples(clipart, guard)
    groups: dict[str, list[Example]] = collections.defaultdict(list)
    for example in examples:
        groups[f"{example.kind == 'clipart'}:{example.source}"].append(example)
    jobs = [
        (sources.root, clipart, name.split(":", 1)[1], members, guard.hashes)
        for name, members in groups.items()
    ]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        rendered = pool.map(render_group, jobs, chunksize=1)
    pairs = [
        (e, p)
        for job, pixels in zip(jobs, rendered, strict=False)
        for e, p in zip(job[3], pixels, strict=False)
        if p
    ]
    kept = [example for example, _ in pairs]
    check(kept, guard, sources)
    images = np.stack([np.frombuffer(p, np.uint8).reshape(PX, PX, 3) for _, p in pairs])
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "images.npy", images)
    (out / "examples.json").write_text(json.dumps([asdict(e) for e in kept]), "utf-8")
    return kept


def check(examples: Iterable[Example], guard: LeakGuard, sources: Sources) -> None:
    """Assert that nothing of Emoji-LT, the pool or a held-out concept is in the corpus.

    Pixel hashes were compared while rendering, where the plain form of each drawing exists.
    """
    vendors = {source for source, _ in guard.drawings} - set(sources.permissive_sets())
    for example in examples:
        assert (example.source, example.name) not in guard.drawings, example
        if example.kind == "emoji":
            assert example.source not in vendors, example
            assert sources.emoji[example.key].family not in guard.families, example
        elif example.kind == "clipart":
            assert not any(squash(c) in guard.labels for c in example.captions), example
        else:
            words = icon_words(example.name)
            assert guard.allows_name(example.source, example.name, words), example


def load(folder: Path) -> tuple[list[Example], np.ndarray]:
    """Examples and their images (N, PX, PX, 3) uint8."""
    records = json.loads((folder / "examples.json").read_text("utf-8"))
    examples = [
        Example(**{k: tuple(v) if isinstance(v, list) else v for k, v in r.items()})
        for r in records
    ]
    return examples, np.load(folder / "images.npy", mmap_mode="r")
