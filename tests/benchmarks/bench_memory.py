"""Memory of extraction: it must not grow with the number of rows beyond what names them.

    python -m tests.benchmarks.bench_memory [--rows 1000 50000]

Situation: many tiny images (32 x 32 PNG, a few distinct ones under as many names as there are
rows) and a tiny encoder, so that hardly anything but the rows themselves can need memory. Each
extraction runs in a fresh process; a thread reads RssAnon (resident memory that is not a file's)
every 20 ms. The peak may grow by 64 MB + 200 bytes a row from the smallest to the largest run.
Ends with status 1 if it grows by more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

FIXED, PER_ROW = 64e6, 200
PERIOD = 0.02
_DISTINCT = 8
_PER_FOLDER = 5000


def rss_anon() -> int:
    """Return the process' resident anonymous memory in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("no RssAnon in /proc/self/status: this benchmark needs Linux")


class Peak:
    """The largest RssAnon while the context is open; ``start`` is that at its beginning."""

    def __enter__(self) -> Peak:
        self.start = self.peak = rss_anon()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(PERIOD):
            self.peak = max(self.peak, rss_anon())


def write_rows(root: Path, rows: int) -> Path:
    """Write a folder of class folders with ``rows`` files, hard links of a few images."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    originals = root / "originals"
    originals.mkdir(parents=True)
    for number in range(_DISTINCT):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(originals / f"{number}.png")
    for row in range(rows):
        folder = root / "images" / f"class {row // _PER_FOLDER:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        os.link(originals / f"{row % _DISTINCT}.png", folder / f"image_{row:08d}.png")
    return root / "images"


def extract_watched(images: str, model: str, out: str) -> dict[str, Any]:
    """Extract in this process; bytes before, and at the peak."""
    from ltcache.encoder import load_encoder
    from ltcache.extract import extract

    encoder = load_encoder(f"local-dir:{model}")
    with Peak() as memory:
        report = extract(images, out, encoder=encoder, workers=2, threads=1)
    assert report.encoded == report.rows
    return {
        "rows": report.rows,
        "start": memory.start,
        "peak": memory.peak,
        "seconds": report.seconds,
    }


def measure(rows: int, work: Path) -> dict[str, Any]:
    """Extract ``rows`` rows in a fresh process."""
    images = write_rows(work / f"rows-{rows}", rows)
    command = [sys.executable, "-m", "tests.benchmarks.bench_memory"]
    command += ["--child", str(images), str(work / "model"), str(work / f"cache-{rows}")]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs=2, default=[1000, 50000])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(extract_watched(*options.child)))
        return 0
    from tests.encoder.tiny_models import write_tiny_clip

    with tempfile.TemporaryDirectory(prefix="bench-memory-") as folder:
        write_tiny_clip(Path(folder) / "model")
        few, many = (measure(rows, Path(folder)) for rows in sorted(options.rows))
    for result in (few, many):
        start, peak = result["start"] / 1e6, result["peak"] / 1e6
        rate = result["rows"] / result["seconds"]
        print(
            f"{result['rows']:>8} rows: RssAnon {start:.1f} MB with the encoder loaded, "
            f"{peak:.1f} MB at the peak ({rate:.0f} rows/s)"
        )
    growth = many["peak"] - few["peak"]
    more = many["rows"] - few["rows"]
    allowed = FIXED + PER_ROW * more
    print(
        f"growth {growth / 1e6:.1f} MB, {growth / more:.0f} B a row; "
        f"allowed {allowed / 1e6:.1f} MB (64 MB + 200 B a row)"
    )
    return int(growth > allowed)


if __name__ == "__main__":
    sys.exit(main())
