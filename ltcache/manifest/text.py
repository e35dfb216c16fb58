"""Reading the text that people write: strict about bytes, tolerant about line ends."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ltcache.errors import ManifestError

_DIGITS = re.compile(r"([0-9]+)")
_DELIMITERS = (",", ";", "\t", "|")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_bytes(path: Path) -> bytes:
    """Return the content of ``path``.

    Raises:
        ManifestError: the file is missing, a folder, or may not be read.
    """
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ManifestError(f"{path}: cannot be read: {reason}") from None


def read_text(path: Path) -> str:
    """Return a UTF-8 file without its byte order mark; line ends stay as they are.

    Raises:
        ManifestError: the file cannot be read, or is not UTF-8 (names the byte offset).
    """
    data = read_bytes(path)
    if data[:2] in _UTF16:
        raise ManifestError(f"{path}: UTF-16 from byte 0; save it as UTF-8")
    start = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    try:
        return data[start:].decode("utf-8")
    except UnicodeDecodeError as error:
        offset = start + error.start
        raise ManifestError(
            f"{path}: not UTF-8 at byte offset {offset} (0x{data[offset]:02x}); save it as UTF-8"
        ) from None


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file without LF or CRLF.

    Unlike ``str.splitlines``, nothing but a line feed ends a line: paths may hold the rest.
    """
    text = read_text(path).replace("\r\n", "\n")
    return text.removesuffix("\n").split("\n")


def read_cells(path: Path, delimiter: str) -> list[tuple[int, list[str]]]:
    """Return the rows of a table in text as (line, cells); rows without any content are left out.

    Where the first line does not hold the delimiter but another usual one (``path;label``, as
    spreadsheets write it where the comma is the decimal sign), that one counts.

    Args:
        delimiter: the one that the file's suffix stands for.

    Raises:
        ManifestError: a quoted cell that does not end; names the line.
    """
    text = read_text(path)
    header = text.lstrip().partition("\n")[0].rstrip()
    if delimiter not in header:
        delimiter = max((delimiter, *_DELIMITERS), key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found: list[tuple[int, list[str]]] = []
    last = 0
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                found.append(
                    (last + 1, row)
                )  # a quoted cell may span lines: the row's first counts
            last = reader.line_num
    except csv.Error as error:
        raise ManifestError(f"{path} line {reader.line_num}: {error}") from None
    return found


def parse_json(text: str, where: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ManifestError: not JSON, or nested beyond reason; names ``where``.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{where}: not JSON: {error}") from None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON value")


def read_json(path: Path) -> Any:
    """Return the value that a JSON file holds; raises ManifestError as `parse_json` does."""
    return parse_json(read_text(path), str(path))


def natural_key(text: str) -> tuple[list[tuple[int, int, str]], str]:
    """Return a sorting key in which ``2`` comes before ``10``; the text itself breaks ties."""
    parts = [part for part in _DIGITS.split(text) if part]
    # a number sorts before any text, and among numbers by value
    key = [(0, int(p), "") if p[0] in "0123456789" else (1, 0, p) for p in parts]
    return key, text


def some(items: Iterable[Any], most: int = 5) -> str:
    """Return the first few of ``items`` for a message: ``a, b, c and 7 more``."""
    listed = [printable(str(item)) for item in items]
    rest = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {rest} more" if rest > 0 else "")


def printable(text: str) -> str:
    r"""Return a text on one line: line ends, control characters, odd bytes as ``\n``, ``\xff``."""
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":  # how Python has a byte of a file name that is no UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
