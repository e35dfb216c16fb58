"""Page faults of commands whose freed memory goes back to the kernel, and where it is kept.

    python -m tests.benchmarks.bench_faults [--work extract fit finetune] [--images N] [--repeats R]
        [--model NAME]

Situations: each command as a whole process. ``given back`` is malloc as it comes
(MALLOC_ARENA_TEST at its own default, which counts as the user's setting and changes nothing);
``kept`` is what ltcache sets (:mod:`ltcache.process`). They run in turn; the medians over pairs
of the ratios count. Faults do not depend on what else runs, and the kernel's time (``system``)
hardly; ``peak`` shows what keeping costs.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.commands import WORK, Newcomer, compared

GIVEN_BACK, KEPT = {"MALLOC_ARENA_TEST": "8"}, dict[str, str]()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", nargs="+", choices=WORK, default=WORK)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--size", type=int, default=96, help="of an image, in pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="embedded")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-faults-") as folder:
        newcomer = Newcomer(Path(folder), options.images, options.size, options.model)
        for name in options.work:
            pairs = newcomer.pairs(name, GIVEN_BACK, KEPT, options.repeats)
            print(f"{name}, given back -> kept: {compared(pairs)}", flush=True)


if __name__ == "__main__":
    main()
