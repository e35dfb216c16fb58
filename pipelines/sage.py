"""What do Sage's two parts add: guidance of the visual blocks by class texts, and compensation?

    python -m pipelines.sage --out sage-tuned

A reconstruction: of Sage only the abstract is public. Base is LIFT's recipe (cosine head from the
class texts, logit adjustment) on a tower without adapters, so that the head alone trains; guidance
adds the SG-Adapter to every block, compensation the factor per class to the loss; then both.

Of every line the learning rate is tried (three, first seed) and the epoch chosen on the validation
split; epochs (4) and batch (128) are those of every pipeline that tunes encoders. Results lie in
OUT/tunings and are shared with pipelines.finetuned.
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
