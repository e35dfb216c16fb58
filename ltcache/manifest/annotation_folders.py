"""Folders of what was drawn or written about images (``images/`` beside ``masks/``): no classes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ltcache.errors import ManifestError
from ltcache.manifest.roots.places import Root
from ltcache.manifest.splits import says_nothing
from ltcache.manifest.text import some

_IMAGES = re.compile("(jpe?g|png|rgb|raw|input|original)(images?|imgs?)")
_ANNOTATIONS = re.compile(
    "(semantic|instance|segmentation|binary|pixel|image|train|val|test)?"
    "(masks?|annotations?|annots?|labels?|labelmaps?|gt|groundtruths?|segmentations?)"
    "|segmentation(class|object)|trimaps?|depth(maps?)?|xmls?|bboxes"
)


def refuse_annotation_folders(path: Root, places: Sequence[str], folders: Sequence[str]) -> None:
    """Refuse folders that are images and what belongs to them, and nothing else.

    Among other folders such a name is a class.

    Args:
        places: where they lie below ``path``, each with a ``/`` at the end or empty: the splits.

    Raises:
        ManifestError: they are.
    """
    images = [name for name in folders if _holds_images(name)]
    others = [name for name in folders if _holds_annotations(name)]
    if not images or not others or len(images) + len(others) < len(folders):
        return
    alone = path.is_dir() and len(places) == len(images) == 1
    remedy = f"give {path}/{places[0]}{images[0]}" if alone else f"move {some(others)} away"
    raise ManifestError(
        f"{path}: the folders {some(folders)} look like images and what belongs to them, not like "
        f"classes; {remedy}. If they are classes, name all of them in a file, one a line, and give "
        "it with --classes"
    )


def annotation_notes(folders: Sequence[str]) -> list[str]:
    """Return what to say of such folders where all images are taken, without classes."""
    images = [name for name in folders if _holds_images(name)]
    others = [name for name in folders if _holds_annotations(name)]
    if not images or not others:
        return []
    return [
        f"the folder(s) {some(others)} look like what belongs to the images in {some(images)}, "
        "and all their files are taken as images, too; move them away if they are none"
    ]


def _holds_images(name: str) -> bool:
    return says_nothing(name) or bool(_IMAGES.fullmatch(_plain(name)))


def _holds_annotations(name: str) -> bool:
    return bool(_ANNOTATIONS.fullmatch(_plain(name)))


def _plain(name: str) -> str:
    return re.sub("[-_. ]", "", name).lower()
