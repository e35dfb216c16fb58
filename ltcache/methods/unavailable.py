"""Methods of the literature that cached features cannot train (yet): what they are, what they need.

A name here ends in a sentence that helps, not in "unknown method".
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class UnavailableMethod:
    """A method that is known but not trainable here.

    Args:
        name: how papers call it.
        title: one line on what it is.
        reference: the publication.
        why: what cached features lack.
        needs: what would make it possible.
        near: methods of the catalogue that keep part of it.
    """

    name: str
    title: str
    reference: str
    why: str
    needs: str
    near: tuple[str, ...] = ()

    def __str__(self) -> str:
        near = f" Nearest here: {', '.join(self.near)}." if self.near else ""
        return (
            f"{self.name} ({self.title}; {self.reference}): {self.why} Needed: {self.needs}{near}"
        )


UNAVAILABLE: dict[str, UnavailableMethod] = {
    entry.name: entry
    for entry in (
        UnavailableMethod(
            "tade",
            "three experts for three priors, aggregated at test time",
            "Zhang et al., NeurIPS 2022, first named TADE",
            "Its aggregation at test time compares two augmented views of each test image.",
            "a cache with two random views of the test split, and a transductive test.",
            ("sade",),
        ),
        UnavailableMethod(
            "abl",
            "a bias in the loss from optimal transport, and a matching after the training",
            "Jin, Lang and Lei, IJCV 2023",
            "Its formula is not public in a form that could be checked.",
            "the formula; its matching of predictions to a prior is transductive.",
            ("logit-adjustment", "posthoc-la"),
        ),
    )
}
