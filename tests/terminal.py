"""What a recorded terminal shows, and whether that is fit to be seen.

    python tests/terminal.py RECORDING COLUMNS

Prints the screen. Ends with status 1 and a reason where it holds a traceback, a line of a table
that is longer than the terminal, or a bar of progress on a line with other text.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

CONTROL = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|\x1b[()][A-Z0-9]|\x1b\][^\a]*\a|(.)", re.DOTALL)
BAR_PIECES = "━╸╺"
BAR = re.compile(rf"\w+ [{BAR_PIECES}]+ +\d+/(\d+|\?)( +(\d+:\d\d:\d\d|-:--:--)( .*)?)?")
"""What :class:`ltcache.cli.progress.ProgressBar` draws: verb, bar, counts, time left, note."""


class Screen:
    """An endless screen: text where the cursor was, as it is left in the end.

    Lines are as long as what was printed, so that what a terminal would break shows as one.
    """

    def __init__(self, recording: str) -> None:
        self.lines: list[list[str]] = [[]]
        self.row = self.column = 0
        for values, action, character in _events(recording):
            if action:
                self._control(action, values)
            elif character == "\n":
                self._go(self.row + 1, self.column)
            elif character == "\r":
                self.column = 0
            elif character.isprintable():
                self._put(character)

    def _control(self, action: str, values: str) -> None:
        number = int(values) if values.isdigit() else 0
        line = self.lines[self.row]
        if action in "AB":
            self._go(self.row + (max(1, number) if action == "B" else -max(1, number)), self.column)
        elif action in "CDG":
            steps = {"C": self.column + max(1, number), "D": self.column - max(1, number)}
            self.column = max(0, steps.get(action, number - 1))
        elif action == "K":
            self.lines[self.row] = [] if number == 2 else line[: self.column]

    def _go(self, row: int, column: int) -> None:
        self.row, self.column = max(0, row), column
        while len(self.lines) <= self.row:
            self.lines.append([])

    def _put(self, character: str) -> None:
        line = self.lines[self.row]
        line.extend(" " * (self.column + 1 - len(line)))
        line[self.column] = character
        self.column += 1

    def __iter__(self) -> Iterator[str]:
        return ("".join(line).rstrip() for line in self.lines)


def _events(recording: str) -> Iterator[tuple[str, str, str]]:
    """Yield values and letter of a control sequence, or a character."""
    for found in CONTROL.finditer(recording):
        yield found[1] or "", found[2] or "", found[3] or ""


def complaints(lines: list[str], columns: int) -> list[str]:
    """Return what a person would stumble over."""
    found = []
    for line in lines:
        if line.startswith("Traceback"):
            found.append(f"a traceback: {line}")
        if re.match(r"[|+┃│┏└]", line) and len(line) > columns:
            found.append(f"a table line of {len(line)} columns: {line}")
        if any(piece in line for piece in BAR_PIECES):
            if not (bar := BAR.fullmatch(line)):
                found.append(f"progress mixed with text: {line}")
            elif bar[1] == "?":
                found.append(f"progress without an end: {line}")
    return found


def main() -> int:
    """Print the screen and what is wrong with it; the exit status."""
    recording = Path(sys.argv[1]).read_bytes().decode("utf-8", "replace")
    _, _, rest = recording.partition("\n")  # script's own first line
    body = re.sub(r"\n+Script done on [^\n]*\n*$", "", rest)
    lines = list(Screen(body))
    print("\n".join(lines).rstrip())
    found = complaints(lines, int(sys.argv[2]))
    for complaint in found:
        print(f"terminal: {complaint}", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
