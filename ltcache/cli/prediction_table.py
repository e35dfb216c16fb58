"""Predictions as a table for people, while they stream: a line for each answer."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich.cells import cell_len

from ltcache.evaluate import Prediction
from ltcache.manifest import printable

_MEASURED = 64  # images whose names decide how wide the columns are
_SHARE = 8  # columns of a probability
_GAP = "  "


def prediction_table(predictions: Iterable[Prediction], room: int | None) -> Iterator[str]:
    """Yield the lines of a table of image, class and probability.

    Args:
        room: columns of the terminal: what is longer is shortened, names of images at their
            beginning; None shortens nothing.
    """
    stream = iter(predictions)
    first = list(itertools.islice(stream, _MEASURED))
    if not first:
        return
    layout = _layout(first, room)
    yield layout.line("image", "class", "prob.")
    yield layout.line("-" * layout.image, "-" * layout.answer, "-" * _SHARE)
    for found in itertools.chain(first, stream):
        yield from _lines(found, layout)


@dataclass(frozen=True)
class TableLayout:
    """How many columns of a terminal the names of images and of classes have.

    Args:
        image: for the image. answer: for the class. fixed: whether what is longer is shortened.
    """

    image: int
    answer: int
    fixed: bool

    def line(self, image: str, answer: str, share: str = "") -> str:
        """Return one line; without a share the answer has its room too."""
        answer_width = self.answer if share else self.answer + len(_GAP) + _SHARE
        cells = [self._fitted(image, self.image, at_end=True)]
        cells.append(self._fitted(answer, answer_width, at_end=False))
        return _GAP.join([*cells, f"{share:>{_SHARE}}"]).rstrip()

    def _fitted(self, text: str, width: int, at_end: bool) -> str:
        """Return a text filled up to a width, or the end or beginning of it that fits in."""
        if self.fixed and cell_len(text) > width:
            while text and cell_len(text) >= width:
                text = text[1:] if at_end else text[:-1]
            text = f"…{text}" if at_end else f"{text}…"
        return text + " " * (width - cell_len(text))


def _layout(first: list[Prediction], room: int | None) -> TableLayout:
    image = max(5, *(cell_len(printable(found.image)) for found in first))
    answer = max([5, *(cell_len(name) for found in first for name, _ in _answers(found))])
    if room is None:
        return TableLayout(image, answer, fixed=False)
    free = max(20, room - 2 * len(_GAP) - _SHARE)
    answer = min(answer, max(free // 2, free - image))
    return TableLayout(min(image, free - answer), answer, fixed=True)


def _lines(found: Prediction, layout: TableLayout) -> Iterator[str]:
    image = printable(found.image)
    if found.error is not None:
        yield layout.line(image, f"error: {printable(found.error)}")
    for name, share in _answers(found):
        yield layout.line(image, name, share)
        image = ""


def _answers(found: Prediction) -> Iterator[tuple[str, str]]:
    """Yield name (of a class without one: its label) and probability of each answer."""
    for label, name, share in zip(found.labels, found.names, found.probabilities, strict=True):
        yield printable(name) or f"class {label}", f"{100 * share:.1f} %"
