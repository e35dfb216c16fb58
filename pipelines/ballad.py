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
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ltcache.metrics import percent
from ltcache.report import Entry, Scored, markdown_table
from ltcache.run import write_json
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


def phase_b(child: Child) -> Scored:
    """Return phase B on the features of what phase A has tuned."""
    return head(child, HEAD)


def head(child: Child, method: str) -> Scored:
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


def b_alone(study: Study) -> Entry:
    """Return phase B on the encoder as it is, over seeds."""
    runs = [fitted(study.cache, HEAD, study.chosen.trials, seed) for seed in study.seeds]
    return Entry(B, HEAD, {}, runs)


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
        lines.append([model, *(_spread(scores[name]) for name in names)])
    return markdown_table(["test, mean/class, %", *names], lines)


def _spread(score: dict[str, Any]) -> str:
    sd = "" if score["sd"] is None else f" ± {percent(score['sd'])}"
    return percent(score["mean"]) + sd


if __name__ == "__main__":
    main()
