"""A page of pictures to sort, filter and look at, with a map of them where there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ltcache.pages.page_pictures import PagePictures, PageSummary, PictureFile
from ltcache.pages.single_file import write_page
from ltcache.records import counted, json_element, require_local

_TEMPLATE = "pictures.html"


@dataclass(frozen=True)
class PictureCard:
    """One picture.

    Args:
        file: the image. key: its name.
        facts: what is known of it, by name: a text or a number.
        point: where it is on the map, or None.
    """

    file: PictureFile
    key: str
    facts: Mapping[str, str | float]
    point: tuple[float, float] | None = None


@dataclass(frozen=True)
class PictureListing:
    """What a page says of its pictures, and by what people look at them.

    Args:
        title: of the page. about: sentences below it.
        facets: facts to choose by; the first one colours the map.
        sorts: facts to sort by, besides the order as given.
        captions: facts that stand below a picture; the others are shown for the one in focus.
    """

    title: str
    about: Sequence[str]
    facets: Sequence[str]
    sorts: Sequence[str]
    captions: Sequence[str]


def write_pictures_page(
    out: str | Path, listing: PictureListing, cards: Sequence[PictureCard]
) -> PageSummary:
    """Write a page that is one file.

    An image that is gone, or no longer the one that was encoded, has its reason in its place.

    Raises:
        UsageError: an address in place of a file.
    """
    path, pictures = require_local(out), PagePictures()
    found = pictures.of(card.file for card in cards)
    items = [
        {"key": card.key, "image": n, "facts": card.facts, "point": card.point}
        for n, card in enumerate(cards)
    ]
    missing = [
        f"{counted(n, 'image')} not shown: {why}." for why, n in sorted(pictures.missing.items())
    ]
    header = {
        "about": [*listing.about, *missing],
        "facets": listing.facets,
        "sorts": listing.sorts,
        "captions": listing.captions,
        "items": items,
        "images": found,
    }
    template = Path(__file__).with_name(_TEMPLATE)
    size = write_page(path, template, listing.title, [json_element("page", header)])
    return PageSummary(path, size, pictures.made, dict(pictures.missing))
