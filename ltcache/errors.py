"""The family of errors that ltcache raises on purpose.

Each carries the exit status that the command line ends with (0 done, 1 error, 2 usage, 3 finished
with failed rows, 4 identity refused, 130 interrupted), and a message that names the value or the
file and, where there is one, the remedy. Each is also the builtin that a caller would catch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any


class LtcacheError(Exception):
    """Base of all errors that are the input's fault, not a defect of the program."""

    exit_status = 1


class UsageError(LtcacheError, ValueError):
    """An option or an argument that cannot be meant."""

    exit_status = 2


class ManifestError(LtcacheError, ValueError):
    """A list, card or folder of images that cannot be read as a manifest."""


class ImageError(LtcacheError, ValueError):
    """An image that cannot be read or decoded; the text never depends on the machine."""


class EncoderError(LtcacheError, ValueError):
    """A model that cannot be loaded, or whose record contradicts its weights."""


class CacheError(LtcacheError, OSError):
    """A cache that is missing, unfinished, damaged or in use for something else."""


class FitError(LtcacheError, ValueError):
    """Data or settings that a head cannot be fitted with."""


class DivergedError(FitError):
    """A training whose loss is no longer finite: its learning rate is too high."""


class UnfittedWarning(UserWarning):
    """A training that ended before the head knew its own training rows."""


class IdentityError(LtcacheError, ValueError):
    """Features, classes or prompts that another encoder, list or checkpoint made.

    Args:
        kind: which identity differs (``encoder``, ``classes``, ``prompts``, ``view``, ``plan``...).
        differences: dotted field -> (expected value, found value).
        remedy: what the user can do about it.
    """

    exit_status = 4

    def __init__(
        self, kind: str, differences: Mapping[str, tuple[Any, Any]], remedy: str = ""
    ) -> None:
        self.kind = kind
        self.differences = dict(differences)
        self.remedy = remedy
        lines = [f"the {kind} differs in {len(self.differences)} field(s):"]
        for field, (expected, found) in differences.items():
            lines.append(f"  {field}: expected {expected!r}, found {found!r}")
        super().__init__("\n".join([*lines, remedy] if remedy else lines))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its kind where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def did_you_mean(name: str, known: Iterable[str], most: int = 1, lead: str = "") -> str:
    """Return "did you mean 'this' or 'that'?" after ``lead``; empty where no name is near.

    Args:
        name: that is unknown. known: the names there are. most: so many are offered.
    """
    lower = {other.lower(): other for other in known}
    near = get_close_matches(str(name).lower(), lower, n=most, cutoff=0.5)
    if not near:
        return ""
    return f"{lead}did you mean {' or '.join(repr(lower[key]) for key in near)}?"
