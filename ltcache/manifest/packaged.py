"""The manifests that come with the package (``emoji_lt``), found by name."""

from __future__ import annotations

import re
from pathlib import Path

from ltcache.errors import ManifestError, did_you_mean
from ltcache.manifest.directory import CARD
from ltcache.manifest.text import some

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(/[A-Za-z0-9][A-Za-z0-9_-]*)*")


def packaged_manifests() -> Path:
    """Return the folder of the packaged manifests.

    It is inside the package when installed from a wheel, and beside it in a checkout.
    """
    package = Path(__file__).resolve().parents[1]
    inside = package / "data_manifests"
    return inside if inside.is_dir() else package.parent / "data_manifests"


def packaged_names() -> tuple[str, ...]:
    """Return the names of the packaged manifests, sorted; cards without lists are left out."""
    folder = packaged_manifests()
    cards = sorted([*folder.glob(f"*/{CARD}"), *folder.glob(f"*/*/{CARD}")])
    cards = [card for card in cards if _has_lists(card.parent)]
    return tuple(card.parent.relative_to(folder).as_posix() for card in cards)


def find_packaged(source: str) -> Path | None:
    """Return the directory of the packaged manifest called ``source``, or None.

    A card without lists gives way to a folder of that name, which its builder may have made.
    """
    if not _NAME.fullmatch(source):
        return None
    path = packaged_manifests() / source
    if not (path / CARD).is_file() or (not _has_lists(path) and Path(source).exists()):
        return None
    return path


def _has_lists(path: Path) -> bool:
    return any(path.glob("*.csv"))


def unknown_source(source: str) -> ManifestError:
    """Return the error for a source that is neither a path nor a packaged name."""
    known = packaged_names()
    return ManifestError(
        f"{source!r} is neither a file or folder nor a packaged manifest"
        f"{did_you_mean(source, known, 3, '; ')} "
        f"(packaged: {some(known, 12) or 'none'})"
    )
