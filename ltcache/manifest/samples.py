"""Which members of a tar shard belong together: an image and the files of its sample beside it.

WebDataset cuts a name at the first dot of its last part (``000.left.jpg`` belongs to ``000.cls``).
People's names hold dots (``IMG.2020.01.jpg`` with ``IMG.2020.01.cls``): there the cut is at the
last one. One rule holds for all shards: the first dot, unless the last puts more files to use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ltcache.manifest.image_files import images_among, is_image, is_visible, suffix_of
from ltcache.manifest.roots.tars import TarIndex, tar_heads

SIDECARS = ("cls", "json", "txt")
Cut = Callable[[str], tuple[str, str]]
"""Name of a member -> (name of its sample, kind of the file in lower case)."""


@dataclass(frozen=True)
class ShardFiles:
    """The visible members of one shard: its images, files with labels or texts, and the rest."""

    shard: TarIndex
    images: list[str]
    sidecars: list[str]
    others: list[str]


@dataclass(frozen=True)
class SampleList:
    """The images of one shard with what lies beside them.

    Args:
        shard: where they lie. images: uris, in the shard's order.
        beside: for each image, kind (``cls``, ``json``, ``txt``) -> uri of the file.
        unused: files of these kinds that belong to no image.
    """

    shard: TarIndex
    images: list[str]
    beside: list[dict[str, str]]
    unused: list[str]

    @property
    def used(self) -> int:
        """How many files belong to an image."""
        return len({name for files in self.beside for name in files.values()})


def files_of(shard: TarIndex) -> ShardFiles:
    """Sort the members of a shard."""
    visible = [name for name in shard.members if is_visible(name)]
    images, rest = images_among(visible, lambda names: tar_heads(shard, names))
    sidecars = [name for name in rest if suffix_of(name)[1:] in SIDECARS]
    return ShardFiles(
        shard, images, sidecars, [name for name in rest if suffix_of(name)[1:] not in SIDECARS]
    )


def samples_of(files: Sequence[ShardFiles]) -> tuple[list[SampleList], Cut]:
    """Return the samples of all shards, and the rule by which names were cut."""
    first, last = ([_samples(shard, cut) for shard in files] for cut in (first_dot, last_dot))
    return (last, last_dot) if _gain(last) > _gain(first) else (first, first_dot)


def first_dot(name: str) -> tuple[str, str]:
    """Cut a name as WebDataset does: ``a/000.left.jpg`` is ``a/000`` and ``left.jpg``."""
    folder, slash, file = name.rpartition("/")
    stem, _, kind = file.partition(".")
    return f"{folder}{slash}{stem}", kind.lower()


def last_dot(name: str) -> tuple[str, str]:
    """Cut a name before its suffix: ``a/IMG.2020.jpg`` is ``a/IMG.2020`` and ``jpg``."""
    kind = suffix_of(name)
    known = is_image(name) or kind[1:] in SIDECARS
    return (name[: -len(kind)], kind[1:]) if known else (name, "")


def _samples(files: ShardFiles, cut: Cut) -> SampleList:
    samples: dict[str, dict[str, str]] = {}
    for name in files.sidecars:
        sample, kind = cut(name)
        if kind in SIDECARS:
            samples.setdefault(sample, {}).setdefault(kind, name)
    beside = [samples.get(cut(name)[0], {}) for name in files.images]
    used = {name for found in beside for name in found.values()}
    unused = [name for name in files.sidecars if name not in used]
    return SampleList(files.shard, files.images, beside, unused)


def _gain(samples: Sequence[SampleList]) -> tuple[int, int]:
    """Return how many files are used, and how many images have some."""
    return sum(item.used for item in samples), sum(
        bool(found) for item in samples for found in item.beside
    )
