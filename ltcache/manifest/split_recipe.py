"""How images without splits are divided into some, as a value that their manifest keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from ltcache.errors import UsageError, did_you_mean
from ltcache.manifest.manifest import Manifest
from ltcache.manifest.splits import canonical_split
from ltcache.manifest.text import some
from ltcache.records import JsonRecord, read_record

SPLITTING = "splitting"
"""Where a manifest's card, and a cache's index, keep how the splits were made."""

WAITING = "unassigned"
"""The split of images that came later, until they are divided like those before them."""

MADE = ("val", "test")
"""The splits that can be made; ``train`` is what is left."""


@dataclass(frozen=True)
class SplitRecipe(JsonRecord):
    """How splits are made.

    Args:
        shares: split -> share of each class, above 0; their sum is below 1.
        seed: of the draw.
        by: columns whose equal values stay in one split.
        near: least cosine of features above which two images stay in one split; None: not yet
            known, or not looked at.

    Raises:
        UsageError: a split that cannot be made, or a share that cannot be.
    """

    shares: Mapping[str, float]
    seed: int = 0
    by: tuple[str, ...] = ()
    near: float | None = None

    def __post_init__(self) -> None:
        for name, share in self.shares.items():
            if name not in MADE:
                hint = did_you_mean(name, MADE, lead="; ") or ": train is what is left"
                raise UsageError(f"the split {name!r} cannot be made, only {some(MADE)}{hint}")
            if not 0 < share < 1:
                raise UsageError(f"the share of {name} lies between 0 and 1, not at {share:g}")
        if not self.shares:
            raise UsageError("no split is named, such as test=0.2")
        if sum(Fraction(str(share)) for share in self.shares.values()) >= 1:
            raise UsageError(
                f"{self.shown_shares()} leave nothing to train on: their sum is to be below 1"
            )

    def shown_shares(self) -> str:
        """Return the shares as they are typed: ``test=0.2,val=0.1``."""
        return ",".join(f"{name}={share:g}" for name, share in self.shares.items())

    def describe(self) -> str:
        """Return how the splits were made, in words."""
        wholes = [*(f"equal {column}" for column in self.by), "equal bytes"]
        if self.near is not None:
            wholes.append(f"a cosine above {self.near:.4f}")
        kept = ", ".join(wholes)
        return f"{self.shown_shares()} of each class, seed {self.seed}; together: {kept}"

    def made_as(self, other: SplitRecipe) -> bool:
        """Return whether both divide alike, as far as a user says it."""
        mine, theirs = (self.shares, self.seed, self.by), (other.shares, other.seed, other.by)
        return mine == theirs


def parse_shares(text: str) -> dict[str, float]:
    """Return split -> share of a text such as ``test=0.2,val=0.1``.

    Raises:
        UsageError: a part that is not of this form, or a split that is named twice.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        split = canonical_split(name)
        try:
            share = float(value)
        except ValueError:
            raise UsageError(f"{part!r}: write splits as test=0.2,val=0.1") from None
        if split in shares:
            raise UsageError(f"the split {split!r} is named twice in {text!r}")
        shares[split] = share
    return shares


def recipe_of(manifest: Manifest) -> SplitRecipe | None:
    """Return how the splits of a manifest were made, or None where nobody made them here."""
    plain = manifest.card.get(SPLITTING)
    return None if plain is None else read_record(SplitRecipe, plain, name="the record of splits")
