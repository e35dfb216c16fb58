"""Commands on a quiet and on a busy machine, with compute threads that spin and that sleep.

    python -m tests.benchmarks.bench_wait [--work extract fit finetune] [--images N] [--repeats R]
        [--burners B] [--model NAME]

Situations: each command as a whole process, alone and beside ``--burners`` processes that use what
processor time they get. ``spins`` is what GNU OpenMP does when nothing is said (GOMP_SPINCOUNT at
its own default, which counts as the user's setting); ``sleeps`` is what the command line sets. They
run in turn; the medians over pairs of the ratios count. Processor time (``cpu``) tells more than
the clock where others use the machine as well.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.commands import WORK, Newcomer, busy, compared

SPINS, SLEEPS = {"GOMP_SPINCOUNT": "300000"}, dict[str, str]()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", nargs="+", choices=WORK, default=WORK)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--size", type=int, default=96, help="of an image, in pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--burners", type=int, default=2)
    parser.add_argument("--model", default="embedded")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-wait-") as folder:
        newcomer = Newcomer(Path(folder), options.images, options.size, options.model)
        for name in options.work:
            for burners in (0, options.burners):
                with busy(burners):
                    pairs = newcomer.pairs(name, SPINS, SLEEPS, options.repeats)
                print(f"{name} beside {burners}, spins -> sleeps: {compared(pairs)}", flush=True)


if __name__ == "__main__":
    main()
