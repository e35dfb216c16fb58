"""Ranks of methods over data sets: Friedman's test and Nemenyi's critical difference.

Demsar, "Statistical comparisons of classifiers over multiple data sets", JMLR 7, 2006.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import friedmanchisquare, rankdata, studentized_range

LEVEL = 0.05


@dataclass(frozen=True)
class MethodRanks:
    """How methods rank over data sets.

    Attributes:
        ranks: name -> mean rank, 1 is best, ties share theirs; in this order.
        sets: number of data sets. left_out: methods that some set lacks.
        p: of Friedman's test that all methods are alike; None: fewer than three methods.
        critical: mean ranks that differ by less are not told apart at 5 % (Nemenyi, all pairs).
    """

    ranks: Mapping[str, float]
    sets: int
    left_out: tuple[str, ...]
    p: float | None
    critical: float

    @property
    def alike(self) -> set[str]:
        """Methods that cannot be told from the best."""
        best = min(self.ranks.values())
        return {name for name, rank in self.ranks.items() if rank - best < self.critical}

    def sentence(self) -> str:
        """Return what may be said from it."""
        test = "" if self.p is None else f"Friedman's test: p = {self.p:.2g}; "
        lacking = f"; not on every set: {', '.join(self.left_out)}" if self.left_out else ""
        return (
            f"{test}{len(self.ranks)} methods on {self.sets} sets, critical difference "
            f"{self.critical:.1f} ranks at 5 %: {len(self.alike)} cannot be told from the best"
            f"{lacking}"
        )


def shared_methods(scores: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the methods that every data set has, of scores as :func:`ranked` takes them."""
    every = dict.fromkeys(name for of_set in scores.values() for name in of_set)
    return [name for name in every if all(name in of_set for of_set in scores.values())]


def ranked(scores: Mapping[str, Mapping[str, float]]) -> MethodRanks:
    """Rank the methods that every data set has.

    Args:
        scores: set -> method -> score, higher is better.

    Raises:
        ValueError: fewer than two sets, or fewer than two methods that all sets have.
    """
    every = list(dict.fromkeys(name for of_set in scores.values() for name in of_set))
    names = shared_methods(scores)
    if len(scores) < 2 or len(names) < 2:
        raise ValueError(f"{len(scores)} sets with {len(names)} methods in common: at least 2 each")
    table = np.array([[of_set[name] for name in names] for of_set in scores.values()])
    means = rankdata(-table, axis=1).mean(axis=0)
    order = np.argsort(means, kind="stable")
    p = float(friedmanchisquare(*table.T).pvalue) if len(names) > 2 else None
    return MethodRanks(
        {names[at]: float(means[at]) for at in order},
        len(scores),
        tuple(name for name in every if name not in names),
        p,
        critical_difference(len(names), len(scores)),
    )


def rank_cells(collections: Mapping[str, MethodRanks]) -> tuple[list[str], list[list[str]]]:
    """Return heading and rows of a table of mean ranks, by those of the first collection.

    A star marks what cannot be told from the best of its column, a dash what was not on every set.

    Args:
        collections: title of a column -> ranks.
    """
    first, *_ = collections.values()
    names = list(dict.fromkeys(name for found in collections.values() for name in found.ranks))
    order = sorted(names, key=lambda name: first.ranks.get(name, float("inf")))
    rows = [[name, *(_rank(found, name) for found in collections.values())] for name in order]
    rows.append(["critical difference", *(f"{f.critical:.1f}" for f in collections.values())])
    return ["mean rank", *collections], rows


def _rank(found: MethodRanks, name: str) -> str:
    if name not in found.ranks:
        return "-"
    return f"{found.ranks[name]:.1f}{'*' if name in found.alike else ''}"


def critical_difference(methods: int, sets: int) -> float:
    """Return how far two mean ranks must lie apart, at 5 % over all pairs."""
    quantile = float(studentized_range.ppf(1 - LEVEL, methods, np.inf)) / np.sqrt(2)
    return float(quantile * np.sqrt(methods * (methods + 1) / (6 * sets)))
