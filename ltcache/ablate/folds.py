"""The training rows of a cache in folds: each is scored by a run that was not fitted on it.

For sets without a test split, or with so few images that a part of them would decide too little.
What belongs together (a unit, equal bytes, near duplicates) lies in one fold. The images of a
class that are all one block train in every fold and are scored in none: a run that has never seen
a class says nothing about a method.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ltcache.ablate.resident import resident
from ltcache.cache import Cache, labelled_split
from ltcache.errors import UsageError
from ltcache.extract import image_blocks
from ltcache.manifest import ImageBlocks, SplitRecipe, some
from ltcache.records import JsonObject, digest, one_line
from ltcache.report import ScoredRows
from ltcache.runs import LEFT_OUT

if TYPE_CHECKING:
    from ltcache.fit import ExtraRows

ALWAYS = -1
"""In place of a fold's number: a row that every run is fitted on."""

_UNUSED = "unused"  # the split of rows that take no part, such as those of test


@one_line
@dataclass(frozen=True, eq=False)
class TrainFolds:
    """The labelled training rows of a cache in K folds.

    Args:
        cache: whose rows they are. count: K.
        rows: int64 (n,), the labelled training rows. fold: int64 (n,) in 0..K-1, or ALWAYS.
        blocks: int64 (n,), the block of each. recipe: what made these blocks.
    """

    cache: Cache
    count: int
    rows: np.ndarray
    fold: np.ndarray
    blocks: np.ndarray
    recipe: SplitRecipe

    @property
    def name(self) -> str:
        """What tables call the split."""
        return f"{self.count} folds of train"

    @cached_property
    def left_out(self) -> list[Cache]:
        """The cache of each fold as :meth:`without` returns it, for what is read of the fold."""
        return [resident(self.without(fold)) for fold in range(self.count)]

    @cached_property
    def scored_rows(self) -> ScoredRows:
        """The rows of all folds, one fold after the other; blocks are their units."""
        parts = [labelled_split(cache, LEFT_OUT) for cache in self.left_out]
        units = np.concatenate([np.asarray(part.units) for part in parts])
        return ScoredRows(np.concatenate([part.labels for part in parts]), units)

    @property
    def left_out_rows(self) -> np.ndarray:
        """The rows of the cache's manifest behind ``scored_rows``, int64."""
        return np.concatenate([self.rows[self.fold == fold] for fold in range(self.count)])

    def without(self, fold: int, name: str = LEFT_OUT) -> Cache:
        """Return the cache with a fold as a split of its own in place of test.

        Args:
            name: of that split; ``val``: in place of the validation rows of the cache, too.
        """
        table = self.cache.manifest.rows
        split = np.array(table["split"].to_pylist(), dtype=object)
        split[(split != "val") | (name == "val")] = _UNUSED
        split[self.rows] = np.where(self.fold == fold, name, "train")
        own = table["unit" if "unit" in table.column_names else "key"].to_pylist()
        unit = np.array(["" if name is None else str(name) for name in own], dtype=object)
        unit[self.rows] = [f"block {block}" for block in self.blocks]
        columns = {name: table[name] for name in table.column_names}
        columns |= {"split": pa.array(split, pa.string()), "unit": pa.array(unit, pa.string())}
        return self.cache.with_rows(pa.table(columns))

    def record(self) -> JsonObject:
        """Return how the rows were divided, as ``results.json`` keeps it."""
        keys, labels = self.cache.manifest.rows["key"], self.cache.manifest.labels()
        divided = [keys.take(self.rows).to_pylist(), labels[self.rows].tolist()]
        return {
            "folds": self.count,
            "digest": digest([*divided, self.fold.tolist()]),
            "by": list(self.recipe.by),
            "near": self.recipe.near,
            "seed": self.recipe.seed,
            "rows": np.bincount(self.fold[self.fold >= 0], minlength=self.count).tolist(),
            "always_trained": int((self.fold == ALWAYS).sum()),
            "tuned": "within each fold, by rows that its runs may know: never by those left out",
        }

    def notes(self) -> list[str]:
        """Return what must be said of classes that no fold leaves out."""
        labels = self.cache.manifest.labels()[self.rows]
        unscored = np.setdiff1d(labels, labels[self.fold >= 0])
        if not len(unscored):
            return []
        names = some(self.cache.classes.names[label] for label in unscored)
        return [
            f"{len(unscored)} class(es) are trained on in every fold and scored in none, since "
            f"their images belong together or are one alone: {names}"
        ]


def refuse_extra(extra: ExtraRows | None) -> None:
    """Refuse extra rows beside folds of the training rows.

    Raises:
        UsageError: says why.
    """
    if extra is not None:
        raise UsageError(
            "extra images cannot train with folds: they were chosen by all training images, those "
            "of the fold left out among them; leave extra out"
        )


def divide(cache: Cache, count: int) -> TrainFolds:
    """Divide the labelled training rows of a cache into folds, class by class alike.

    Raises:
        UsageError: fewer than 2 folds, or a fold would be empty.
    """
    if count < 2:
        raise UsageError(f"--folds {count}: at least 2, so that there are rows to train on")
    rows = cache.rows("train")[labelled_split(cache, "train").positions]
    blocks, recipe = image_blocks(cache, rows)
    fold = fold_of_rows(ImageBlocks(cache.manifest.labels()[rows], blocks), count)
    filled = len(np.unique(fold[fold >= 0]))
    if filled < count:
        raise UsageError(
            f"--folds {count}: the training images of {cache.path} that a fold can leave out, "
            f"since others of their class stay, fill {filled} folds"
            + (f": --folds {filled}" if filled > 1 else "; nothing can be scored in this way")
        )
    return TrainFolds(cache, count, rows, fold, blocks, recipe)


def fold_of_rows(images: ImageBlocks, count: int) -> np.ndarray:
    """Return int64 (n,), the fold of each row in 0..count-1, or ALWAYS.

    From the largest block to the smallest, each goes where its classes have the fewest rows, of
    equal folds to the one with the fewest rows in all. A class that would lie in one fold alone
    stays in training.
    """
    classes, counts = images.parts
    filled = np.zeros((count, int(images.labels.max(initial=-1)) + 1), np.int64)
    fold = np.full(len(images.sizes), ALWAYS)
    for block in np.argsort(-images.sizes, kind="stable").tolist():
        there = filled[:, classes[block]]
        excess = (counts[block] * (2 * there + counts[block])).sum(axis=1)
        fold[block] = np.lexsort((filled.sum(axis=1), excess))[0]
        filled[fold[block], classes[block]] += counts[block]
    for alone in np.flatnonzero((filled > 0).sum(axis=0) == 1):
        fold[images.blocks[images.labels == alone]] = ALWAYS
    return np.asarray(fold[images.blocks])
