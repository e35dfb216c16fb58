"""What do Sage's two parts add: guidance of the visual blocks by class texts, and compensation?

    python -m pipelines.sage --out sage-tuned

A reconstruction: of Sage only the abstract is public. Base is LIFT's recipe (cosine head from the
class texts, logit adjustment) on a tower without adapters, so that the head alone trains; guidance
adds the SG-Adapter to every block, compensation the factor per class to the loss; then both.

Of every line three settings are tried (the learning rate; with guidance the adapters' factor on
it, of which 40 collapses) with the first seed, and the epoch chosen, on the validation split;
epochs (5) and batch (128) are those of every pipeline that tunes encoders. Results lie in
OUT/tunings and are shared with pipelines.finetuned.

Measured on Emoji-LT with the embedded encoder: test split (1,651 images, 280 families), 3 seeds,
mean ± sd; groups many n>100, medium, few n<20; differences in mean accuracy per class with 95 %
intervals of the paired bootstrap over families; seconds of one tuning on a CPU core.

                     mean/class        many      medium         few  against base       seconds
    base             41.5 ± 0.7  49.4 ± 2.0  34.8 ± 1.0  45.0 ± 2.2                         110
    + guidance       41.7 ± 1.4  52.4 ± 1.0  34.9 ± 3.2  42.8 ± 0.6  +0.1 (-1.3 to 1.4)     345
    + compensation   40.9 ± 0.7  42.1 ± 0.4  30.9 ± 1.3  54.6 ± 0.8  -0.6 (-1.8 to 0.6)     126
    both             40.8 ± 1.0  44.5 ± 0.5  30.9 ± 1.4  52.3 ± 1.6  -0.8 (-2.4 to 0.7)     328

No row's mean can be told from the base's. The compensation, on top of logit adjustment, moves
accuracy to the rare classes (few +9.7, 6.9 to 12.3; many -7.4, -9.6 to -5.5), as on cached
features; guidance moves a little to the frequent ones (many +3.0, 0.2 to 5.3).
"""

from __future__ import annotations

from pipelines.tunings import Line, Study, adapter_rates, measured, options, rates, report

RATES = rates(3e-2, 1e-2, 1e-1)
ADAPTERS = adapter_rates(3e-2, 10, 1, 40)
PLAIN = {"loss": "logit_adjustment"}
BARE = {"adapters": "none"}
BASE, BOTH = "Sage base", "Sage (both)"
GUIDED, COMPENSATED = f"{BASE} + guidance", f"{BASE} + compensation"

LINES = (
    Line(BASE, "sage", RATES, {**BARE, **PLAIN}),
    Line(GUIDED, "sage", ADAPTERS, PLAIN),
    Line(COMPENSATED, "sage", RATES, BARE),
    Line(BOTH, "sage", ADAPTERS),
)


def main() -> None:
    """Tune and print the table."""
    study = Study.of(options(__doc__, "sage-tuned").parse_args())
    report(study, measured(study, LINES), BASE, "sage")


if __name__ == "__main__":
    main()
