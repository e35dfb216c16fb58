"""Tables 6 to 9 of TIN, end to end: what does each part of it do when the towers are tuned?

    python -m pipelines.tin --table 9 --out tin-tuned
    python -m pipelines.tin --table switches --brief --out tin-tuned
    python -m pipelines.tin --table switches --out tin-tuned
    python -m pipelines.tin --table all --out tin-tuned

Table 6: random or pretrained start weights of each tower. Table 7: each tower frozen or tuned; a
frozen image tower has no attention either, so that with both frozen there is plain zero-shot with
the source's prompt. Table 8: the seesaw's p. Table 9: base (cross entropy, no attention), with the
seesaw, with the large-kernel visual attention, with both.

Of every line the learning rate is tried (three, first seed) and the epoch chosen on the validation
split; table 8 takes the learning rate that p = 0.7 has chosen, so that p alone differs. The table
`switches`, which the source does not have, changes one thing of TIN at a time, with TIN's learning
rate where optimiser and classifier are TIN's, and compares each line with the zero-shot of its own
prompts and, at the end, with full fine-tuning; `--brief` leaves the lines between out. Epochs (5)
and batch (128) are those of every pipeline that tunes encoders; the source has 50 and 128. Lines
that tables share are tuned once; results lie in OUT/tunings.

The lines of `--brief` on Emoji-LT with the embedded encoder (three seeds, learning rate and epoch
chosen on val, three trials each; test, 95 % of differences over 280 units; an hour of a CPU core):

    test, %                                  mean/class        many  medium     few
    zero-shot, TIN's prompt                        33.0        45.9    23.7    36.0
    zero-shot, the data set's prompts              35.9        45.3    27.7    40.2
    TIN                                      36.2 ± 0.6  56.9 ± 1.2    28.6    30.4
    TIN, prior taken off, tau by validation  37.9 ± 0.7  51.7 ± 1.8    29.2    39.2
    full fine-tuning                         43.6 ± 0.6  54.2 ± 0.7    38.6    42.0
    full, prior taken off                    43.5 ± 0.6  52.2 ± 2.9    38.2    44.1

TIN is above its own frozen start, the zero-shot of its own prompt: +3.2 (0.7 to 5.7). That start
is 2.9 points below the zero-shot of the data set's prompts, from which TIN cannot be told: +0.3
(-2.0 to 2.7). The one-sided seesaw leaves a prior in the logits: taking it off gains 1.7 (0.7 to
2.7), all of it in few, where full fine-tuning, whose loss is logit adjustment, gains nothing. Full
fine-tuning with the same budget is 7.3 (5.3 to 9.4) above TIN.

Of the lines that change one thing at a time, all were measured with the first seed, three with the
second, too (TIN's learning rate, 1e-3, but for those with another classifier or optimiser, of which
three rates were tried; seven minutes of a core each):

    test, %                                  mean/class  many  medium   few  second seed
    TIN                                            36.1  57.1    28.0  30.7         35.7
    the data set's prompts                         36.9  57.4    28.9  31.9         35.8
    cross entropy                                  32.6  61.4    26.3  18.3
    logit adjustment                               39.4  48.8    31.5  43.2         38.0
    contrastive                                    37.0  49.6    30.4  36.3
    contrastive and seesaw                         35.9  55.9    28.0  31.1
    no augmentation                                38.7  60.0    30.0  34.0
    crop and flip                                  36.4  60.3    27.5  29.8
    no attention                                   36.1  57.5    28.4  29.8
    attention's rate times 100                     36.3  59.2    27.7  30.1
    image tower frozen                             36.2  54.8    26.9  34.6
    text tower frozen                              34.7  57.7    26.5  27.9
    classifier on pooled features (1e-3)           36.4  59.5    30.4  26.3
    AdamW (1e-4)                                   37.3  59.7    30.9  28.1
    prompts, crop and flip, logit adjustment       39.1  48.2    30.8  43.7
    the same on pooled features, AdamW (1e-4)      43.9  53.5    39.4  42.5

(Of the last line two rates were tried to the end, 48.8 and 45.5 on val; the third, 1e-5, had 43.2
after three epochs.) That line is nearly full fine-tuning, and as good with this one seed.

The seesaw gains 3.5 over cross entropy, and logit adjustment 2 to 3 more, all of it in few; to
train on plain images gains 2.6, prompts hardly anything. What each gives alone does not add up.
The visual attention does nothing, since it learns nothing: its gate starts at one, and after three
epochs here, four on the ViT (of lines with logit adjustment, whose states were looked at) of SGD at
the towers' rate the largest bias of its last layer is 1.0012, the largest weight 0.0006; that its
map has 3 x 3 places here is not the reason. At a hundred times that rate it gains nothing either
(39.1 on val, where TIN has 41.6). With the image tower frozen TIN has as much, with the text tower
frozen half of its gain over zero-shot.

The same on the packaged ViT, whose map has 8 x 8 places (``--model
local-dir:ltcache/embedded/encoder``, first seed): zero-shot 23.2 with TIN's prompt and 26.9 with
the data set's; TIN 24.2 (many 46.3, medium 17.5, few 15.9), prior taken off 25.4 (43.0, 19.0,
20.4), logit adjustment 26.1 (34.5, 20.7, 27.2); without attention it is right on the same images of
val and test, one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ltcache.report import ComparisonEntry
from ltcache.tables import markdown_table
from pipelines.comparisons import STATISTICS, shown
from pipelines.tin_cached import with_template
from pipelines.tunings import (
    Line,
    Settings,
    Study,
    choose,
    differences,
    measured,
    measured_line,
    options,
    prior_taken_off,
    rates,
    report,
    zero_shot,
)

RATES = rates(3e-4, 1e-3, 1e-4)
POWERS = (0.0, 0.3, 0.5, 0.7, 0.9, 1.1)
PROMPTS = "tin"
FULL = "TIN"
TIN = Line(FULL, "tin", RATES)
PLAIN, BARE = {"loss": "cross_entropy"}, {"adapters": "none"}
BASE = "base"
WEIGHTS = {
    "image random, text random": {"image.weights": "random", "text.weights": "random"},
    "image random, text pretrained": {"image.weights": "random"},
    "image pretrained, text random": {"text.weights": "random"},
    "image pretrained, text pretrained": {},
}
FROZEN = "image frozen, text frozen (zero-shot)"
TOWERS = {
    "image frozen, text tuned": {"image.train": "none", **BARE},
    "image tuned, text frozen": {"text.train": "none", "logit_scale": "fixed"},
    "image tuned, text tuned": {},
}
PARTS = {
    BASE: {**BARE, **PLAIN},
    "+ seesaw": BARE,
    "+ attention": PLAIN,
    "+ seesaw, attention": {},
}


OWN, GIVEN = "zero-shot, TIN's prompt", "zero-shot, the data set's prompts"
TAKEN_OFF = "prior taken off, tau by validation"
THEIRS = {"template": None}
POOLED = {
    "classifier.head": "cosine",
    "classifier.scale": 25.0,
    "lr_factors.classifier": 10.0,
    "text.train": "none",
    "logit_scale": "fixed",
}
ADAMW = {"optimisation.optimiser": "adamw", "optimisation.weight_decay": 0.1}
SLOW = rates(3e-5, 1e-4, 1e-5)  # for AdamW
SWITCHES: dict[str, tuple[dict[str, Any], tuple[Settings, ...] | None]] = {
    "the data set's prompts": (THEIRS, None),
    "cross entropy": (PLAIN, None),
    "logit adjustment": ({"loss": "logit_adjustment"}, None),
    "contrastive": ({"loss": "contrastive"}, None),
    "contrastive and seesaw": ({"loss": "contrastive,seesaw_static"}, None),
    "no augmentation": ({"augmentation": "none"}, None),
    "crop and flip": ({"augmentation": "crop_flip"}, None),
    "no attention": (BARE, None),
    "attention's rate times 100": ({"lr_factors.adapters": 100.0}, None),
    "image tower frozen": ({"image.train": "none"}, None),
    "text tower frozen": ({"text.train": "none", "logit_scale": "fixed"}, None),
    "classifier on pooled features": (POOLED, RATES),
    "AdamW": (ADAMW, SLOW),
    "prompts, crop and flip, logit adjustment": (
        {**THEIRS, "augmentation": "crop_flip", "loss": "logit_adjustment"},
        None,
    ),
    "the same on pooled features, AdamW": (
        {**THEIRS, **POOLED, **ADAMW, "augmentation": "crop_flip", "loss": "logit_adjustment"},
        SLOW,
    ),
}
"""Name of a line -> what differs from TIN, and the settings to try; None: what TIN has chosen."""


def main() -> None:
    """Tune and print the tables that are asked for."""
    parser = options(__doc__, "tin-tuned")
    parser.add_argument("--table", choices=[*TABLES, "all"], default="9", help="of the source")
    parser.add_argument(
        "--brief", action="store_true", help="of the switches none: TIN, zero-shot, full alone"
    )
    chosen = parser.parse_args()
    study = Study.of(chosen)
    for number in TABLES if chosen.table == "all" else [chosen.table]:
        entries, baseline = TABLES[number](study)
        print(f"\nTable {number}\n")
        report(study, entries, baseline, f"tin-table-{number}")


def weights(study: Study) -> tuple[list[ComparisonEntry], str]:
    """Return table 6 and the line that others are compared with."""
    return _lines(study, WEIGHTS), "image pretrained, text pretrained"


def towers(study: Study) -> tuple[list[ComparisonEntry], str]:
    """Return table 7 and the line that others are compared with."""
    with_prompts = replace(study, cache=with_template(study.cache, study.chosen))
    return [zero_shot(with_prompts, PROMPTS, FROZEN), *_lines(study, TOWERS)], FROZEN


def powers(study: Study) -> tuple[list[ComparisonEntry], str]:
    """Return table 8 and the line that others are compared with."""
    settings, tuning = choose(study, TIN)
    own = TIN.method, TIN.tried
    entries = []
    for power in POWERS:
        line = Line(f"p = {power:g}", *own, {"loss.p": power})
        entries += measured_line(study, line, {**settings, "loss.p": power}, tuning)
    return entries, entries[0].name


def parts(study: Study) -> tuple[list[ComparisonEntry], str]:
    """Return table 9 and the line that others are compared with."""
    return _lines(study, PARTS), BASE


def switches(study: Study) -> tuple[list[ComparisonEntry], str]:
    """Return TIN with one thing changed at a time, and what the lines are compared with."""
    study = replace(study, cache=with_template(study.cache, study.chosen))
    own, given = zero_shot(study, PROMPTS, OWN), zero_shot(study, name=GIVEN)
    whole = replace(TIN, then={f"{FULL}, {TAKEN_OFF}": prior_taken_off})
    settings, tuning = choose(study, whole)
    found = measured_line(study, whole, settings, tuning)
    for name, (changes, tried) in ({} if study.chosen.brief else SWITCHES).items():
        line = Line(name, TIN.method, tried or TIN.tried, changes)
        if tried is None:
            found += measured_line(study, line, {**settings, **changes}, tuning)
        else:
            found += measured_line(study, line)
    full = Line("full fine-tuning", "full", SLOW, then={f"full, {TAKEN_OFF}": prior_taken_off})
    found += measured_line(study, full)
    theirs = [entry for entry in found if entry.overrides.get("template", "") is None]
    theirs += [entry for entry in found if entry.method == "full"]
    records = differences(study, given, theirs)
    records += differences(study, own, [entry for entry in found if entry not in theirs])
    lines = [[r["after"], r["before"], *(shown(r[s]) for s in STATISTICS)] for r in records]
    print(markdown_table(["test, points", "against", *STATISTICS], lines), end="\n\n")
    return [own, given, *found], FULL


def _lines(study: Study, changes: dict[str, dict[str, str]]) -> list[ComparisonEntry]:
    return measured(study, [Line(n, TIN.method, TIN.tried, set_) for n, set_ in changes.items()])


TABLES: dict[str, Callable[[Study], tuple[list[ComparisonEntry], str]]] = {
    "6": weights,
    "7": towers,
    "8": powers,
    "9": parts,
    "switches": switches,
}


if __name__ == "__main__":
    main()
