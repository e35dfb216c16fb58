"""Emoji metadata, drawings and rendering, shared by the Emoji-LT builder and the encoder recipe.

Everything is read from three unpacked npm packages (see `build_emoji_lt` for how to get them):
`@iconify/json` holds the vector drawings, `@lobehub/fluent-emoji-3d` the rendered Fluent set and
`emojibase-data` the labels, tags and subgroups of Unicode.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import resvg_py
from PIL import Image

ICONIFY = "iconify-json-2.2.535"
EMOJIBASE = "emojibase-data-17.0.0"
FLUENT_3D = "lobehub-fluent-emoji-3d-1.1.0"

# Vendors of Emoji-LT. The values are what ATTRIBUTION.md and dataset.json repeat.
VENDORS: dict[str, dict[str, str]] = {
    "twemoji": {
        "licence": "CC-BY-4.0",
        "attribution": "Twemoji, Copyright Twitter, Inc and other contributors",
        "package": "@iconify/json 2.2.535 (twemoji)",
    },
    "noto": {
        "licence": "Apache-2.0",
        "attribution": "Noto Emoji, Copyright Google Inc.",
        "package": "@iconify/json 2.2.535 (noto)",
    },
    "fluent-emoji-flat": {
        "licence": "MIT",
        "attribution": "Fluent Emoji, Copyright Microsoft Corporation",
        "package": "@iconify/json 2.2.535 (fluent-emoji-flat)",
    },
    "emojione": {
        "licence": "CC-BY-4.0",
        "attribution": "EmojiOne 2.3 (art supplied by EmojiOne), Copyright Ranks.com Inc.",
        "package": "@iconify/json 2.2.535 (emojione)",
    },
    "fxemoji": {
        "licence": "Apache-2.0",
        "attribution": "FxEmojis, Copyright Mozilla Foundation",
        "package": "@iconify/json 2.2.535 (fxemoji)",
    },
    "fluent-emoji-3d": {
        "licence": "MIT",
        "attribution": "Fluent Emoji 3D, Copyright Microsoft Corporation, packaged by LobeHub",
        "package": "@lobehub/fluent-emoji-3d 1.1.0",
    },
}

PERMISSIVE = frozenset(
    {
        "MIT", "Apache-2.0", "CC-BY-4.0", "CC-BY-3.0", "CC0-1.0", "ISC", "OFL-1.1", "Unlicense",
        "BSD-3-Clause",
    }
)  # fmt: skip

_VARIATION_SELECTORS = {"fe0f", "fe0e"}
_GENDER_OR_DIRECTION = {"2640", "2642", "27a1", "2194", "2195"}
# Inside a sequence: man, woman, person and bearded person; boy, girl and child.
_PERSON = dict.fromkeys(("1f468", "1f469", "1f9d1", "1f9d4"), "1f9d1")
_PERSON |= dict.fromkeys(("1f466", "1f467", "1f9d2"), "1f9d2")
# Emoji that are one concept in several genders without a common code point.
_GENDER_SETS = (
    ("1f468", "1f469", "1f9d1"),  # man, woman, person
    ("1f466", "1f467", "1f9d2"),  # boy, girl, child
    ("1f474", "1f475", "1f9d3"),  # old man, old woman, older person
    ("1f934", "1f478", "1fac5"),  # prince, princess, person with crown
    ("1f385", "1f936", "1f9d1-200d-1f384"),  # Santa, Mrs. Claus, Mx Claus
    ("1f57a", "1f483"),  # dancers
    ("1f930", "1fac3", "1fac4"),  # pregnant
    ("1f931", "1f468-200d-1f37c", "1f469-200d-1f37c", "1f9d1-200d-1f37c"),  # feeding a baby
    ("1f46b", "1f46c", "1f46d", "1f9d1-200d-1f91d-200d-1f9d1"),  # holding hands
)
_GENDER_OF = {key: members[0] for members in _GENDER_SETS for key in members}
_SIDE = re.compile(r"\b(left|right)(wards|-facing|-pointing)?\b")


def normalise_hex(code: str) -> str:
    """`1F468_200D` or `1f468-fe0f` -> lower case, joined by `-`, without variation selectors."""
    parts = re.split(r"[-\s_]+", code.lower())
    return "-".join(p for p in parts if p not in _VARIATION_SELECTORS)


def squash(text: str) -> str:
    """Letters and digits only, lower case: the form in which names of all vendors agree."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def family_of(key: str, label: str) -> str:
    """The family of an emoji: gender, person and left/right variants share one.

    Drawings of one family look alike, so splits and confidence intervals are taken over families.
    """
    if key in _GENDER_OF:
        return _GENDER_OF[key]
    parts = key.split("-")
    if len(parts) > 1:
        parts = [_PERSON.get(p, p) for p in parts if p not in _GENDER_OR_DIRECTION]
    while parts[-1] == "200d":
        parts.pop()
    family = re.sub(r"(-200d)+", "-200d", "-".join(parts))
    if _SIDE.search(label):  # mirrored pairs have unrelated code points: join them by label
        return squash(_SIDE.sub("side", label))
    return _GENDER_OF.get(family, family)


@dataclass(frozen=True)
class Emoji:
    """One emoji without skin tone: Unicode key, English label and tags, subgroup and family."""

    key: str
    label: str
    tags: tuple[str, ...]
    group: str
    subgroup: str
    family: str


@dataclass(frozen=True)
class IconSet:
    """One icon set of `@iconify/json`."""

    name: str
    data: dict[str, Any]

    @property
    def icons(self) -> dict[str, Any]:
        icons: dict[str, Any] = self.data["icons"]
        return icons

    def svg(self, icon: str, px: int, colour: str = "#222") -> str:
        """A square SVG document of the icon on white; `currentColor` becomes `colour`."""
        body = self.icons[icon]
        width = body.get("width", self.data.get("width", 16))
        height = body.get("height", self.data.get("height", 16))
        side = max(width, height)
        left = body.get("left", 0) - (side - width) / 2
        top = body.get("top", 0) - (side - height) / 2
        drawing = body["body"].replace("currentColor", colour)
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {side} {side}" width="{px}" height="{px}">'
            f'<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="#fff"/>'
            f"{drawing}</svg>"
        )


def on_white(image: Image.Image, px: int) -> Image.Image:
    """Any image -> RGB (px, px), centred on white with its aspect ratio kept."""
    image = image.convert("RGBA")
    # Paste before shrinking: transparent pixels carry arbitrary colours that would bleed.
    side = max(image.size)
    canvas = Image.new("RGBA", (side, side), "white")
    canvas.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas.convert("RGB").resize((px, px), Image.Resampling.LANCZOS)


_PIXELS = {"": 1.0, "px": 1.0, "pt": 1.25, "pc": 15.0, "mm": 3.5433, "cm": 35.433, "in": 90.0}


def with_size(svg: str) -> str:
    """The root element with its size in pixels (90 per inch), which resvg insists on.

    Clip art of old editors gives millimetres or per cent, or a view box alone.
    """
    root = re.search(r"<svg\b[^>]*>", svg)
    if root is None:
        raise ValueError("no SVG root element")
    tag = root.group()
    box = re.search(r"""viewBox=["'][\d.eE+-]+[ ,]+[\d.eE+-]+[ ,]+([\d.]+)[ ,]+([\d.]+)""", tag)
    sizes = list(box.groups()) if box else []
    if not box:
        for side in ("width", "height"):
            size = re.search(rf"""\s{side}=["']([\d.]+)(\w*)["']""", tag)
            if size is None or size.group(2) not in _PIXELS:
                raise ValueError(f"no {side}")
            sizes.append(str(float(size.group(1)) * _PIXELS[size.group(2)]))
    tag = re.sub(r"""\s(width|height)=["'][^"']*["']""", "", tag)
    tag = tag.replace("<svg", f'<svg width="{sizes[0]}" height="{sizes[1]}"', 1)
    return svg[: root.start()] + tag + svg[root.end() :]


def render_svg(svg: str, px: int) -> Image.Image:
    """SVG text -> RGB (px, px) on white."""
    if not re.search(r'<svg\b[^>]*\swidth="[\d.]+"', svg):
        svg = with_size(svg)
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=px))
    image = Image.open(io.BytesIO(png))
    if max(image.size) > 16 * px:
        raise ValueError("drawing is too elongated")
    return on_white(image, px)


class Sources:
    """The unpacked packages: `root/NAME-VERSION/package`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _read(self, package: str, path: str) -> Any:
        return json.loads((self.root / package / "package" / path).read_text("utf-8"))

    def icon_set(self, name: str) -> IconSet:
        return IconSet(name, self._read(ICONIFY, f"json/{name}.json"))

    @cached_property
    def collections(self) -> dict[str, Any]:
        """Licence, category and palette of every icon set."""
        collections: dict[str, Any] = self._read(ICONIFY, "collections.json")
        return collections

    def permissive_sets(self) -> list[str]:
        """Icon sets of permissive licence that are neither emoji, logos nor flags, sorted."""
        bad_categories = {"Logos", "Programming", "Flags / Maps", "Emoji"}
        bad_names = {"flagpack", "unjs", "k8s", "gcp", "glyphs", "emojione-monotone"}
        return sorted(
            name
            for name, entry in self.collections.items()
            if entry["license"].get("spdx") in PERMISSIVE
            and entry.get("category") not in bad_categories
            and name not in bad_names
            and not re.match(
                r"emoji|openmoji|noto|twemoji|fxemoji|fluent-emoji|devicon|logos", name
            )
            and name != "streamline-emojis"
        )

    @cached_property
    def emoji(self) -> dict[str, Emoji]:
        """Key -> emoji; flags, components (skin tones, hair) and ungrouped characters left out."""
        meta = self._read(EMOJIBASE, "meta/groups.json")
        found: dict[str, Emoji] = {}
        for entry in self._read(EMOJIBASE, "en/data.json"):
            group = meta["groups"].get(str(entry.get("group")))
            subgroup = meta["subgroups"].get(str(entry.get("subgroup")))
            if group in (None, "flags", "component") or subgroup is None:
                continue
            key, label = normalise_hex(entry["hexcode"]), entry["label"].lower()
            tags = tuple(entry.get("tags", ()))
            found[key] = Emoji(key, label, tags, group, subgroup, family_of(key, label))
        return found

    @cached_property
    def subgroup_messages(self) -> dict[str, str]:
        """Subgroup key -> readable words, e.g. `face-smiling` -> `smiling`."""
        messages = self._read(EMOJIBASE, "en/messages.json")["subgroups"]
        return {m["key"]: m["message"].lower() for m in messages}

    @cached_property
    def _key_of_name(self) -> dict[str, str]:
        """Squashed name -> emoji key, over all naming schemes the vendors use."""
        names: dict[str, str] = {}
        for key, emoji in self.emoji.items():
            names.setdefault(squash(emoji.label), key)
        for scheme in ("cldr", "emojibase", "iamcal", "joypixels", "github"):
            codes = self._read(EMOJIBASE, f"en/shortcodes/{scheme}.json")
            for code, shortcodes in codes.items():
                key = normalise_hex(code)
                if key in self.emoji:
                    for name in [shortcodes] if isinstance(shortcodes, str) else shortcodes:
                        names.setdefault(squash(name), key)
        for code, name in self._read(EMOJIBASE, "meta/unicode-names.json").items():
            if normalise_hex(code) in self.emoji:
                names.setdefault(squash(name), normalise_hex(code))
        for code, name in self.icon_set("twemoji").data["chars"].items():
            if normalise_hex(code) in self.emoji:
                names.setdefault(squash(name), normalise_hex(code))
        return names

    def key_of_name(self, name: str) -> str | None:
        """The emoji a drawing's name means, or None. A trailing variant number is ignored."""
        direct = self._key_of_name.get(squash(name))
        return direct or self._key_of_name.get(squash(re.sub(r"-\d+$", "", name)))

    def vector_drawings(self, set_name: str, variants: bool = False) -> list[tuple[str, str]]:
        """(icon name, emoji key) of one emoji set, sorted by name.

        One drawing for each emoji unless `variants`; drawings with skin tones match nothing.
        """
        icon_set = self.icon_set(set_name)
        keys = {n: normalise_hex(c) for c, n in icon_set.data.get("chars", {}).items()}
        seen: set[str] = set()
        found = []
        for name in sorted(icon_set.icons):
            key = keys[name] if name in keys else self.key_of_name(name)
            if key in self.emoji and (variants or key not in seen):
                seen.add(key)
                found.append((name, key))
        return found

    def fluent_3d(self) -> list[tuple[Path, str]]:
        """(file, emoji key) of the Fluent 3D set, sorted."""
        assets = self.root / FLUENT_3D / "package" / "assets"
        keyed = {normalise_hex(p.stem): p for p in sorted(assets.glob("*.webp"))}
        return [(keyed[k], k) for k in sorted(keyed) if k in self.emoji]


def encode_webp(image: Image.Image, quality: int = 90) -> bytes:
    """Deterministic lossy WebP bytes for one Pillow version."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=6)
    return buffer.getvalue()


_STYLE_WORDS = frozenset(
    [
        "outline",
        "outlined",
        "line",
        "linear",
        "fill",
        "filled",
        "solid",
        "bold",
        "light",
        "thin",
        "duotone",
        "twotone",
        "tone",
        "regular",
        "rounded",
        "round",
        "sharp",
        "broken",
        "rtl",
        "ltr",
        "alt",
        "flat",
        "color",
        "baseline",
        "o",
        "s",
        "r",
        "sm",
        "md",
        "lg",
        "xs",
        "xl",
        "mini",
        "stroke",
        "crop",
        "micro",
    ]
)


def icon_words(name: str) -> str:
    """`arrow-left-bold-24` -> `arrow left`: an icon's name without words of style and size."""
    words = re.split(r"[-_]+", name.lower())
    return " ".join(w for w in words if w and w not in _STYLE_WORDS and not w.isdigit())


def squashed(labels: Iterable[str]) -> frozenset[str]:
    """The set of squashed forms, for exact name comparison."""
    return frozenset(squash(label) for label in labels)
