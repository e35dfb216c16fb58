"""Commands on terminals of several widths: bars of progress and text, never on one line."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import sys
import termios
import threading
from pathlib import Path

import pytest

from tests.commands import StartedCommand
from tests.conftest import write_images
from tests.terminal import BAR, Screen, complaints

QUICK = "-s optimisation.epochs=1"


def on_terminal(columns: int, recording: str, *typed: str) -> None:
    """Run commands in this process, which gets a terminal, and record what that shows."""
    from ltcache.cli import main

    shown, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 40, columns, 0, 0))
    for descriptor in range(3):
        os.dup2(terminal, descriptor)
    os.close(terminal)
    sys.stdout, sys.stderr = (
        open(number, "w", buffering=1, closefd=False)  # noqa: SIM115
        for number in (1, 2)
    )
    recorder = threading.Thread(target=_record, args=(shown, Path(recording)))
    recorder.start()
    failed = 0
    for words in typed:
        try:
            main(words.split())
        except SystemExit as ended:
            if ended.code:
                failed += 1
                print(f"failed: ltcache {words}"[:columns])
    for descriptor in range(3):  # the recorder reads until nobody holds the terminal
        os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
    recorder.join()
    os._exit(failed)


def _record(shown: int, recording: Path) -> None:
    with recording.open("wb") as file:
        try:
            while part := os.read(shown, 65536):
                file.write(part)
        except OSError:  # Linux says so that the terminal is gone
            pass


@pytest.mark.parametrize("columns", [60, 200])
def test_progress_never_mixes_with_text(columns: int, tiny_clip: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "photos", {"jay": 30, "a moth of a long name": 12, "newt": 8})
    write_images(tmp_path / "web" / "test", {"any": 20})
    named = f"--model local-dir:{tiny_clip}"
    model = f"{named} --threads 1"
    environ = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    result = StartedCommand(
        on_terminal,
        columns,
        str(tmp_path / "recording"),
        f"extract photos --out cache --split test=0.2,val=0.2 {model}",
        f"extract web/test/any --unlabelled --out pool {model}",
        "zero-shot cache",
        f"fit-adapter cache --method ce {QUICK} --seeds 2 --out run",
        f"ablate cache --methods ce,ncm,posthoc-la {QUICK} --seeds 2 --workers 1 --out ablation",
        f"finetune photos --cache cache {named} --workers 0 {QUICK} --out tuned",
        "retrieve-tail cache pool --threshold 0 --out retrieved",
        "report ablation",
        cwd=tmp_path,
        environ={**environ, "TERM": "xterm", "COLUMNS": ""},
    ).finish()
    lines = list(Screen((tmp_path / "recording").read_bytes().decode()))
    text = "\n".join(lines)
    assert result.returncode == 0, text
    assert complaints(lines, columns) == []
    bars = [line for line in lines if BAR.fullmatch(line)]
    assert {line.split()[0] for line in bars} == {"encoding", "fitting", "tuning"}
    assert max(map(len, bars)) <= columns
