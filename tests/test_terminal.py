"""What the walk-through finds on a screen, and that bars of progress leave a clean one."""

from __future__ import annotations

import io

import pytest

from ltcache.cli.options import _show_warning
from ltcache.cli.progress import ProgressBar
from tests.terminal import Screen, complaints


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch, columns: int = 80) -> Terminal:
    """Return what stands for standard error from now on, a terminal."""
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    return screen


def shown(terminal: Terminal) -> list[str]:
    return [line for line in Screen(terminal.getvalue().replace("\n", "\r\n")) if line]


def test_a_bar_ends_as_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    with ProgressBar() as bar:
        for done in range(3):
            bar.show(done + 1, 3, "3 images/s")
    (line,) = shown(terminal)
    assert line.startswith("working ━") and line.endswith("3 images/s")
    assert complaints([line], 80) == []


@pytest.mark.parametrize("columns", [60, 100, 200])
def test_a_bar_keeps_its_counts_however_long_the_note_is(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    terminal = on_terminal(monkeypatch, columns)
    with ProgressBar() as bar:
        bar.show(12345, 12345, "111 images/s, encoding binds (43% of the time), 3 failed " * 3)
    (line,) = shown(terminal)
    assert complaints([line], columns) == [] and len(line) <= columns
    assert " 12345/12345 0:00:00 111" in line


def test_a_warning_stands_on_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    with ProgressBar() as bar:
        bar.show(1, 2, "")
        _show_warning("it has not converged")
        bar.show(2, 2, "")
    lines = shown(terminal)
    assert complaints(lines, 80) == [] and "warning: it has not converged" in lines


def test_a_bar_with_nothing_to_show_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    with pytest.raises(ValueError, match="refused"), ProgressBar():
        raise ValueError("refused before the work began")
    assert shown(terminal) == []


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("Traceback (most recent call last):", "a traceback"),
        ("| " + 78 * "x" + " |", "a table line of 82 columns"),
        ("working ━━━━ 3/3 0:00:00note: a message", "progress mixed with text"),
        ("a message working ━━━╸ 1/3 -:--:--", "progress mixed with text"),
        ("working ━━━╸ 0/? -:--:--", "progress without an end"),
    ],
)
def test_what_a_person_would_stumble_over_is_found(line: str, complaint: str) -> None:
    (found,) = complaints(["fine", "| " + 76 * "x" + " |", line], 80)
    assert found.startswith(complaint)


def test_a_screen_keeps_what_is_not_written_over() -> None:
    recording = "one\r\nthree\rt\x1b[2K\rtwo\r\n\x1b[1mfour\x1b[0m 4\x1b[1A\x1b[2Kup"
    assert list(Screen(recording)) == ["one", "      up", "four 4"]
