"""The classes of a manifest: an ordered list, keyed by label and never by name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ltcache.errors import ManifestError
from ltcache.manifest.text import some
from ltcache.records import JsonObject, digest, one_line

NAME_NORMALISER = "readable_name/1"
"""Recorded in a manifest's card (``class_names``) where names came from folder names."""

# what follows the hyphen in the 75 qualified classes of Places365; other hyphens stay (t-shirt)
_QUALIFIERS = (
    "asia|baseball|broadleaf|cultivated|door|exterior|football|hockey|indoor|interior|natural|"
    "ocean deep|outdoor|performance|platform|public|rodeo|sand|shop|soccer|urban|vegetation|"
    "water|wild"
)
_QUALIFIED = re.compile(rf"-({_QUALIFIERS})$")


def readable_name(raw: str) -> str:
    """Return a folder name as words for a prompt.

    Underscores become blanks, and the qualifiers of Places365 lose their hyphen:
    ``apartment_building-outdoor`` -> ``apartment building outdoor``. Applying it again changes
    nothing.
    """
    words = " ".join(raw.replace("_", " ").split())
    return _QUALIFIED.sub(r" \1", words) or raw


def composed(text: str) -> str:
    """Return a text in Unicode's composed form (NFC), in which names are compared.

    macOS writes ``é`` in file names as two characters (NFD), most others as one.
    """
    return unicodedata.normalize("NFC", text)


@one_line
@dataclass(frozen=True)
class ClassList:
    """The classes in label order.

    Args:
        names: C names; names[k] is the name of label k. Names may repeat (ImageNet has two
            ``missile``s).
        source_ids: C identifiers in the source (WordNet id, folder name, Unicode subgroup) or
            None; left out, all are None.

    Raises:
        ManifestError: an empty name, or other than C identifiers.
    """

    names: tuple[str, ...]
    source_ids: tuple[str | None, ...] = ()

    def __post_init__(self) -> None:
        names = tuple(self.names)
        ids = tuple(self.source_ids) or (None,) * len(names)
        if len(ids) != len(names):
            raise ManifestError(f"{len(names)} class names, but {len(ids)} source ids")
        for label, name in enumerate(names):
            if not isinstance(name, str) or not name.strip() or not _encodable(name):
                raise ManifestError(f"class {label} has no usable name: {name!r}")
        for label, source_id in enumerate(ids):
            if source_id is not None and not (isinstance(source_id, str) and _encodable(source_id)):
                raise ManifestError(f"class {label} has no usable source id: {source_id!r}")
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "source_ids", ids)

    @classmethod
    def from_raw(cls, raw: Sequence[str]) -> ClassList:
        """Return classes named after folders: readable names, the raw ones as source ids.

        Names are composed (NFC), so that a folder names the same class on every file system.
        """
        return cls(tuple(readable_name(composed(name)) for name in raw), tuple(raw))

    def __len__(self) -> int:
        """The number of classes, C."""
        return len(self.names)

    def identity(self) -> JsonObject:
        """Return what must agree between features, prompts and heads over these classes."""
        return {"num_classes": len(self), "names": digest(list(self.names))}

    def header(self) -> JsonObject:
        """Return a value for JSON from which `from_header` makes an equal list."""
        return {"names": list(self.names), "source_ids": list(self.source_ids)}

    @classmethod
    def from_header(cls, header: Mapping[str, Any]) -> ClassList:
        """Return the list that `header` described.

        Raises:
            ManifestError: the header lacks its fields.
        """
        try:
            return cls(tuple(header["names"]), tuple(header["source_ids"]))
        except (KeyError, TypeError) as error:
            raise ManifestError(f"not a record of classes: {error!r}") from None

    def repeated_names(self) -> dict[str, list[int]]:
        """Return name -> labels for each name that more than one class bears.

        Names that differ in their Unicode form alone are one; the key is the composed form.
        """
        labels: dict[str, list[int]] = {}
        for label, name in enumerate(self.names):
            labels.setdefault(composed(name), []).append(label)
        return {name: found for name, found in labels.items() if len(found) > 1}

    def warnings(self) -> list[str]:
        """Return a sentence for each thing in the list that a user should know."""
        repeated = self.repeated_names()
        if not repeated:
            return []
        found = [(self._shown(labels), some(labels)) for labels in repeated.values()]
        shown = some(f"{name} (labels {labels})" for name, labels in found)
        return [f"{len(repeated)} class name(s) are used more than once: {shown}"]

    def _shown(self, labels: Sequence[int]) -> str:
        """Return the one name of some classes, or its Unicode forms, escaped so as to differ."""
        forms = list(dict.fromkeys(self.names[label] for label in labels))
        return repr(forms[0]) if len(forms) == 1 else " = ".join(map(ascii, forms))


def _encodable(text: str) -> bool:
    """Return whether ``text`` is Unicode (a file name in another encoding is not)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
