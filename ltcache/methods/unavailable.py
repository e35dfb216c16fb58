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
            "abl",
            "a bias in the loss from optimal transport, and a matching after the training",
            "Jin, Lang and Lei, IJCV 2023",
            "The formula of its loss is not public; post-ot is the public part, the matching.",
            "the rule by which its bias follows from optimal transport in training.",
            ("post-ot", "logit-adjustment", "posthoc-la"),
        ),
    )
}
