"""How much of an encoder should be tuned: nothing, few weights in every block (LIFT), or all?

    python -m pipelines.lift --out lift-tuned

Zero-shot; the best head on frozen features (of ten, chosen on the validation split); LIFT and
LIFT+; the same with biases, normalisations or low-rank changes in place of the adapters; every
weight, the same weights averaged with those of the start (WiSE-FT), and every weight after a linear
probe. LIFT also with the logits of five test-time crops. WiSE-FT and five crops are of the same
training as the line above them.

Of every line the learning rate (of LIFT and LIFT+ the adapters' factor on it) is tried, three with
the first seed, and the epoch chosen on the validation split, and so is WiSE-FT's share, at the
learning rate of full fine-tuning; frozen heads have as many trials. Epochs (5) and batch (128) are
those of every pipeline that tunes encoders; the source has 10 and 128. Results lie in OUT/tunings
and are shared with pipelines.finetuned, whose docstring has what was measured of LIFT, full
fine-tuning and WiSE-FT on Emoji-LT. LIFT+ there, three seeds: mean per class 43.8 ± 1.0, many 51.6,
medium 37.2, few 47.1; of the factors 10, 40 and 160 validation data chose the least (45.6, 45.0 and
1.8 there, the last diverged), so a smaller one may be better. The other lines have not been run.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ltcache.cache import Cache, open_cache
from ltcache.encoder import load_encoder
from ltcache.extract import extract
from ltcache.finetune import FineTuned, override_tuning, tuning_by_name
from ltcache.finetune.assembly import ComputeOptions, assemble
from ltcache.finetune.averaging import average_weights
from ltcache.finetune.processes import processes
from ltcache.finetune.renewal import renew
from ltcache.finetune.tuned_run import tuned_run
from ltcache.manifest import Manifest
from ltcache.report import ComparisonEntry, ScoredRun
from ltcache.report.comparison import scored
from ltcache.runs import Run, open_run
from pipelines.tunings import (
    TEST,
    Child,
    Line,
    Study,
    adapter_rates,
    best_frozen,
    frozen_heads,
    measured,
    options,
    rates,
    report,
    scored_logits,
    zero_shot,
)

FEW = rates(3e-2, 1e-2, 1e-1)
ADAPTERS = adapter_rates(3e-2, 40, 10, 160)
WIDE = {"adapters.bottleneck": 16}
ALL = rates(1e-4, 3e-4, 1e-3)
CROPS = "five"
AVERAGED = "wise-ft"


def five_crops(child: Child) -> ScoredRun:
    """Return the tuned head on the mean of the logits of five crops of each test image."""
    run, place = open_run(child.tuned.path / "run"), child.tuned.path / CROPS
    return on_crops(child.study, run, child.cache, place, encoder=child.tuned.encoder)


def frozen_crops(study: Study, head: ComparisonEntry) -> ComparisonEntry:
    """Return a head on frozen features, on five crops of each test image."""
    place, chosen = Path(study.chosen.out) / f"frozen-{CROPS}", study.chosen
    encoder = {"model": chosen.model, "pretrained": chosen.pretrained}
    runs = [open_run(str(run.path)) for run in head.runs]
    found = [on_crops(study, run, study.cache, place, **encoder) for run in runs]
    return replace(head, name=f"{head.name}, five crops", runs=found)


def on_crops(study: Study, run: Run, cache: Cache, place: Path, **encoder: Any) -> ScoredRun:
    """Return a run on five crops of each test image.

    Args:
        cache: of the run. place: where the crops are encoded to. encoder: that of the cache.
    """
    extract(of_split(study.manifest, TEST), place, views=[CROPS], **encoder)
    crops = open_cache(place)
    logits = run.logits(crops.features(TEST, run.record.field, CROPS))
    like = scored(run, cache)
    cost = replace(like.record.cost, encoder_passes=_passes(like) + crops.crops(CROPS) - 1)
    return scored_logits(cache, {TEST: logits}, like, cost=cost)


def averaged(child: Child) -> ScoredRun:
    """Return WiSE-FT of what was tuned: weights and head averaged with those of the start, the
    share chosen on the validation split."""
    tuned = between(child)
    place = child.tuned.path / AVERAGED
    cost = {
        "finetune_seconds": tuned.record.cost.finetune_seconds,
        "finetune_passes": float(tuned.record.method.optimisation.epochs),
    }
    renew(child.study.cache, tuned.encoder, child.study.manifest, place / "cache", cost=cost)
    cache = open_cache(place / "cache")
    return scored(tuned_run(tuned, cache, place / "run", overwrite=True), cache)


def between(child: Child) -> FineTuned:
    """Return the tuned encoder and head after averaging, as `--method wise-ft` would leave them."""
    study, tuned = child.study, child.tuned
    tuning = override_tuning(tuning_by_name(AVERAGED), child.settings)
    with processes(study.chosen.device) as place:
        parent = load_encoder(study.chosen.model, study.chosen.pretrained, device="cpu")
        means = ComputeOptions(study.chosen.loaders)
        assembly = assemble(study.manifest, tuning, parent, place, seed=child.seed, means=means)
        step = assembly.step.requires_grad_(False)
        step.model.load_state_dict(tuned.encoder.model.state_dict())
        assert step.head is not None and tuned.head is not None
        step.head.load_state_dict(tuned.head.state_dict())
        step.model.eval()
        judge = assembly.judge if assembly.val is not None else None
        found = average_weights(step, assembly.start, tuning, judge)
        encoder = parent.with_model(step.model)
    record = replace(
        tuned.record,
        method=tuning,
        tuned_on={**tuned.record.tuned_on, "average": found.tuned_on},
        average=found.share,
        averaged=found.scores,
    )
    head = copy.deepcopy(step.head).cpu().eval()
    return replace(tuned, encoder=encoder, head=head, record=record)


def of_split(manifest: Manifest, split: str) -> Manifest:
    """Return the rows of one split as a manifest of their own, without descriptions."""
    rows = manifest.rows.filter(pc.equal(manifest.rows["split"], split))
    number = pa.array(np.arange(len(rows)), pa.int64())
    place = rows.column_names.index("row_id")
    rows = rows.set_column(place, rows.schema.field(place), number)
    return replace(manifest, rows=rows, descriptions=None)


def _passes(line: ScoredRun) -> float:
    return line.record.cost.encoder_passes


LIFT = Line("LIFT", "lift", ADAPTERS, WIDE, {"LIFT, five crops": five_crops})
FULL = Line("full fine-tuning", "full", ALL, then={"WiSE-FT": averaged})
LINES = (
    LIFT,
    Line("LIFT+", "lift-plus", ADAPTERS, WIDE),
    Line("bias", "bias", FEW),
    Line("layer norm", "layer-norm", FEW),
    Line("LoRA", "lora", FEW),
    FULL,
    Line("linear probe, then full", "lp-ft", ALL),
)


def main() -> None:
    """Tune and print the table."""
    study = Study.of(options(__doc__, "lift-tuned").parse_args())
    frozen = best_frozen(study, frozen_heads(study))
    entries = [zero_shot(study), frozen, frozen_crops(study, frozen), *measured(study, LINES)]
    report(study, entries, frozen.name, "lift")


if __name__ == "__main__":
    main()
