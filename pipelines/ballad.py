"""What does each of BALLAD's two phases add: contrastive tuning of the towers, and the adapter?

    python -m pipelines.ballad --out ballad-tuned
    python -m pipelines.ballad --models RN50,openai:ViT-B-32,openai --source LIST --device cuda

Zero-shot; phase B alone, on the encoder as it is; phase A, both towers tuned on images against
class-labelled texts and used as zero-shot; A and then B, or another head, on features extracted
anew. `--code` adds phase A as the released code does it, by cross entropy over the texts of all
classes. `--models` (separated by colons, since a name may have a comma) makes the table over
encoders, each in a folder of its own.

Of phase A the learning rate is tried (three, first seed) and the epoch chosen; of phase B the
settings of the default search (as many trials, each seed by itself) and the epoch: all on the
validation split. Epochs (5) and batch (128) are those of every pipeline that tunes encoders; the
publication has 50 and 512. Results lie in OUT/tunings and are shared with pipelines.finetuned.

Measured on Emoji-LT with the embedded encoder: test split (1,651 images, 280 families), 3 seeds,
mean ± sd; groups many n>100, medium, few n<20; differences in mean accuracy per class with 95 %
intervals of the paired bootstrap over families. The docstring of pipelines.finetuned tells more.

                             mean/class        many      medium         few  against zero-shot
    zero-shot                35.9 ± 0.0  45.3 ± 0.0  27.7 ± 0.0  40.2 ± 0.0
    B alone                  38.3 ± 0.1  54.6 ± 2.1  32.3 ± 0.6  33.9 ± 2.7  +2.5 (0.4 to 4.4)
    A                        39.7 ± 0.8  48.6 ± 0.7  32.5 ± 0.7  42.7 ± 2.3  +3.8 (1.2 to 6.3)
    A+B                      40.6 ± 0.4  55.7 ± 0.6  34.0 ± 0.5  37.9 ± 1.4  +4.7 (1.9 to 7.4)
    A, then lift-lp          40.8 ± 1.3  54.3 ± 9.9  36.5 ± 0.1  36.0 ± 3.9  +4.9 (1.5 to 8.2)
    A, then sade             42.1 ± 1.6  55.0 ± 4.5  37.3 ± 0.9  38.5 ± 4.5  +6.2 (2.8 to 9.4)
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ltcache.records import write_json
from ltcache.report import ComparisonEntry, ScoredRun
from ltcache.report.tables import mean_and_spread
from ltcache.tables import markdown_table
from pipelines.tunings import (
    TEST,
    Child,
    Line,
    Study,
    fitted,
    measured,
    options,
    rates,
    report,
    zero_shot,
)

HEAD = "ballad"
HEADS = ("lift-lp", "sade")
"""Further heads on the features of phase A."""
RATES = rates(1e-3, 3e-4, 3e-3)
B, A, BOTH = "BALLAD B alone", "BALLAD A", "BALLAD A+B"


def phase_b(child: Child) -> ScoredRun:
    """Return phase B on the features of what phase A has tuned."""
    return head(child, HEAD)


def head(child: Child, method: str) -> ScoredRun:
    """Return a head on the features of what phase A has tuned."""
    return fitted(child.cache, method, child.study.chosen.trials, child.seed)


OTHERS = {f"{A}, then {name}": partial(head, method=name) for name in HEADS}
POSTER = Line(A, "ballad", RATES, then={BOTH: phase_b, **OTHERS})
CODE = Line(f"{A} (code)", "ballad-code", RATES, then={f"{BOTH} (code)": phase_b})


def main() -> None:
    """Tune, fit, and print the table of every encoder, and that over encoders."""
    parser = options(__doc__, "ballad-tuned")
    parser.add_argument("--models", help="several encoders, separated by colons")
    parser.add_argument("--code", action="store_true", help="phase A as released, too")
    chosen = parser.parse_args()
    if not chosen.models:
        table(Study.of(chosen), chosen)
        return
    if chosen.cache is not None:
        parser.error("--models extracts a cache for each encoder: leave --cache out")
    found = {}
    for model in split_models(chosen.models):
        own = argparse.Namespace(**{**vars(chosen), "model": model, "out": folder(chosen, model)})
        found[model] = table(Study.of(own), own)
    write_json(chosen.out / "models.json", found)
    print(models_table(found))


def table(study: Study, chosen: argparse.Namespace) -> dict[str, Any]:
    """Print one encoder's table and return it."""
    entries = [zero_shot(study), b_alone(study)]
    entries += measured(study, [POSTER, CODE] if chosen.code else [POSTER])
    print(f"\n{chosen.model}\n")
    return report(study, entries, entries[0].name, "ballad")


def b_alone(study: Study) -> ComparisonEntry:
    """Return phase B on the encoder as it is, over seeds."""
    runs = [fitted(study.cache, HEAD, study.chosen.trials, seed) for seed in study.seeds]
    return ComparisonEntry(B, HEAD, {}, runs)


def split_models(text: str) -> list[str]:
    """Return the encoders of a list with colons; that of ``local-dir:`` belongs to its name."""
    names: list[str] = []
    for part in text.split(":"):
        if names and names[-1] == "local-dir":
            names[-1] += f":{part}"
        else:
            names.append(part)
    return names


def folder(chosen: argparse.Namespace, model: str) -> Path:
    """Return where the results of one of several encoders go."""
    plain = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in model)
    return Path(chosen.out) / plain


def models_table(found: dict[str, dict[str, Any]]) -> str:
    """Return the mean accuracy per class of every line, over encoders."""
    names: Sequence[str] = [entry["name"] for entry in next(iter(found.values()))["entries"]]
    lines = []
    for model, comparison in found.items():
        scores = {e["name"]: e["scores"][TEST]["mean_per_class"] for e in comparison["entries"]}
        lines.append([model, *(mean_and_spread(scores[name]) for name in names)])
    return markdown_table(["test, mean/class, %", *names], lines)


if __name__ == "__main__":
    main()
