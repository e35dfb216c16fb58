"""Is it worth tuning the encoder: zero-shot, the best frozen head, and everything that tunes?

    python -m pipelines.finetuned --out finetuned-results

Zero-shot; the best of ten heads on frozen features; BALLAD's phase A, and A with phase B; TIN;
Sage's base, each of its parts, and both; LIFT, also with five test-time crops; full fine-tuning,
and the same averaged with its start (WiSE-FT). Differences are to the best frozen head.

Everything is chosen on the validation split: the best head by mean accuracy per class, settings by
three trials of each method (of a tuning its learning rate, with the first seed), the epoch, and
WiSE-FT's share. Every tuning has 4 epochs of batches of 128. Three seeds; intervals over units.
Lines that pipelines.ballad, tin, sage and lift have made in the same --out are taken from there.
"""

from __future__ import annotations

from pipelines import ballad, lift, sage, tin
from pipelines.tunings import (
    Study,
    best_frozen,
    frozen_heads,
    measured,
    options,
    report,
    zero_shot,
)

LINES = (ballad.POSTER, tin.TIN, *sage.LINES, lift.LIFT, lift.FULL)


def main() -> None:
    """Tune and print the table."""
    study = Study.of(options(__doc__, "finetuned-results").parse_args())
    frozen, heads = best_frozen(study), frozen_heads(study)
    entries = [zero_shot(study), frozen, lift.frozen_crops(study, frozen)]
    entries += [*(heads[name] for name in ballad.HEADS), *measured(study, LINES)]
    report(study, entries, frozen.name, "finetuned")


if __name__ == "__main__":
    main()
