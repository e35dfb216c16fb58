"""What a format that holds images says of itself: one class, whose place is the catalogue."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, Protocol

from ltcache.errors import ImageError, ManifestError
from ltcache.manifest.image_files import HEAD_BYTES, LeftOut, images_among, is_visible
from ltcache.manifest.roots.places import Place, Root, places_of


class ImageStore(Protocol):
    """Where the bytes of a manifest's uris come from. Safe to use from several threads."""

    def read(self, uri: str) -> bytes:
        """Return the bytes at ``uri`` (relative to the root) or raise :class:`ImageError`."""
        ...


@dataclass(frozen=True)
class ImageInput:
    """One image.

    Args:
        name: as it was named; a member of an archive is ``archive.zip/member.png``.
        read: returns the encoded bytes or raises :class:`ImageError`; safe in another thread.
    """

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class NamedFiles:
    """What lies in one folder or archive.

    Args:
        files: the names of files, folders included in them; those of an archive are uris.
        folders: the names of folders that are listed themselves.
        repeated: the names of files that come more than once.
    """

    files: Sequence[str]
    folders: Sequence[str] = ()
    repeated: Sequence[str] = ()


class RootFormat(ABC):
    """One root in one format. A class states how the format is recognised, listed and read.

    Attributes:
        suffixes: of its files, in lower case; none where a root in this format is a folder.
        named_suffixes: of files that mean the images in them where ``predict`` is given one.
        several: whether several files may be one root.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    named_suffixes: ClassVar[tuple[str, ...]] = ()
    several: ClassVar[bool] = False

    def __init__(self, root: Root) -> None:
        """Take a root as it is named; nothing is read yet."""
        self.root = root
        self.place: Place = places_of(root)[0]

    @classmethod
    def recognises(cls, place: Place) -> bool:
        """Return whether a folder, or a file whose suffix no format has, is in this format."""
        return False

    @abstractmethod
    def parts(self) -> Iterable[NamedFiles]:
        """Return what there is, to look for class folders in.

        Raises:
            ManifestError: it cannot be read; names the file or folder.
        """

    @abstractmethod
    def read(self, uri: str) -> bytes:
        """Return the bytes at ``uri``, as an :class:`ImageStore` does."""

    @cached_property
    def index(self) -> Any:
        """Return what has to be known before bytes are read; a format keeps it here.

        Raises:
            ManifestError: it is damaged; names the file.
        """
        return None

    def open(self) -> ImageStore:
        """Return it with its index."""
        _ = self.index
        return self

    def heads(self, names: Sequence[str]) -> Iterable[bytes]:
        """Return the first bytes of some files; none of one that cannot be read."""
        return [_head(self, name) for name in names]

    def contains(self) -> Callable[[str], bool]:
        """Return a test for uris."""
        return frozenset(name for part in self.parts() for name in part.files).__contains__

    def top_folders(self) -> Iterable[str]:
        """Return the folders directly below the root."""
        names = (name for part in self.parts() for name in part.files)
        return {name.partition("/")[0] for name in names if "/" in name}

    def inputs(self, left_out: LeftOut) -> Iterator[ImageInput]:
        """Yield its images in its order; what cannot be read is one whose ``read`` raises.

        Args:
            left_out: counts what is no image.
        """
        try:
            names = [name for part in self.parts() for name in part.files if is_visible(name)]
            images, rest = images_among(names, self.heads)
            self.open()
        except ManifestError as error:
            kind = self.suffixes[0].removeprefix(".")
            yield unreadable(str(self.root), f"not a {kind} archive ({error})")
            return
        left_out.add(f"{self.root}/{name}" for name in rest)
        for name in images:
            yield ImageInput(f"{self.root}/{name}", partial(self.read, name))


def unreadable(name: str, reason: str) -> ImageInput:
    """Return an image whose ``read`` raises :class:`ImageError` with a reason."""

    def read() -> bytes:
        raise ImageError(reason)

    return ImageInput(name, read)


def _head(store: ImageStore, name: str) -> bytes:
    try:
        return store.read(name)[:HEAD_BYTES]
    except ImageError:
        return b""
