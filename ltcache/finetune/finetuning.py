"""``finetune``: from a manifest, an encoder and a method to a checkpoint."""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ltcache.encoder import (
    EncoderChoice,
    is_checkpoint,
    load_chosen,
    load_encoder,
    read_checkpoint,
    require_place,
    save_checkpoint,
)
from ltcache.encoder.adapters import merge_adapters, set_checkpointing
from ltcache.errors import FitError, UsageError
from ltcache.finetune.assembly import ComputeOptions, TrainingParts, assemble
from ltcache.finetune.averaging import AveragingChoice, average_weights
from ltcache.finetune.gather import gathered_failures
from ltcache.finetune.loop import TrainingSetup, encode_split, train_encoder
from ltcache.finetune.methods import tuning_by_name
from ltcache.finetune.overrides import override_tuning
from ltcache.finetune.processes import ProcessRanks, processes
from ltcache.finetune.record import TunedHead, TuningCost, TuningRecord
from ltcache.finetune.spec import FineTuning
from ltcache.finetune.state import StateFolder, TrainingState
from ltcache.finetune.tracking import tracked
from ltcache.fit import TrainingFit
from ltcache.heads import HEADS, Head, HeadContext
from ltcache.manifest import Manifest, read_manifest
from ltcache.metrics import EpochRecord, Metrics, evaluate_logits
from ltcache.process import activations_kept
from ltcache.records import JsonObject, digest, one_line, require_local, result_folder

if TYPE_CHECKING:
    from ltcache.encoder import Encoder

log = logging.getLogger(__name__)

HEAD_FILE, HISTORY_FILE = "head.safetensors", "history.jsonl"
_ON_CPU = 32  # images in one pass: activations stay in the cache, a third faster than 128
_ALL_ON_CPU = 128  # where each pass has a price of its own


@one_line
@dataclass(frozen=True, eq=False)
class FineTuned:
    """A tuned encoder, the head that was tuned with it, and how they came about.

    Attributes:
        path: the checkpoint's folder, which ``local-dir:PATH`` names.
        encoder: ready to extract with.
        head: on ``field``, on the CPU, or None where the class texts are the classifier.
        history: one record per epoch: loss, images per second, scores of validation images.
        record: what stands in ``ltcache.json``.
        fresh: False where a finished checkpoint was found and opened.
    """

    path: Path
    encoder: Encoder
    head: Head | None
    history: list[EpochRecord]
    record: TuningRecord
    fresh: bool = True


def finetune(
    source: str | Path | Manifest,
    method: FineTuning | str,
    out: str | Path,
    *,
    encoder: Encoder | None = None,
    model: str = "embedded",
    pretrained: str | None = None,
    activation: str | None = None,
    root: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    workers: int | None = None,
    micro_batch: int | None = None,
    checkpointing: bool = False,
    compiled: bool = False,
    track: str | Path | None = None,
    save_every: int | None = None,
    resume: bool = True,
    overwrite: bool = False,
    allow_double_correction: bool = False,
    progress: Callable[[EpochRecord], None] | None = None,
) -> FineTuned:
    """Tune an encoder on the ``train`` split of a manifest and write it as a checkpoint.

    The epoch is chosen on the ``val`` split by mean accuracy per class (ties: lower NLL, then the
    earlier); without one the last epoch is kept. The ``test`` split is never read.

    An interrupted training goes on where it was saved, with the same result, on a GPU but for last
    bits; one that is finished is opened. Under ``torchrun`` every process calls this with the same
    arguments: they share each batch, and the first one writes.

    Args:
        source: anything :func:`ltcache.manifest.read_manifest` takes, or a manifest.
        method: a fine-tuning or its name.
        out: folder of the checkpoint; the state of the training lies beside it until it is done.
        encoder: to begin with, in float32 on the CPU; it stays as it is. None: ``model``,
            ``pretrained`` and ``activation`` name it (:func:`ltcache.encoder.load_encoder`).
        root: where the images are, if not where the source says.
        overrides: dotted key -> value, see :func:`ltcache.finetune.override_tuning`.
        seed: of start weights, order, augmentation and whatever else is random.
        device: see :func:`ltcache.encoder.load_encoder`; under torchrun ``auto`` is the rank's GPU.
        workers: loading processes; None: one less than the processors, 0: none.
        micro_batch: most images in one pass through the tower; the gradient stays that of the
            whole batch, whatever the loss. None: the whole batch on a GPU; 32 on a CPU, 128 where
            a contrastive loss has to embed each image twice or texts are encoded in each pass.
        checkpointing: compute activations again on the way back instead of keeping them.
        compiled: let torch.compile make the image tower's forward.
        track: folder of TensorBoard logs, or None.
        save_every: steps between two savings of the state; None: five minutes. Every epoch is.
        resume: False throws the state of an unfinished training away.
        overwrite: replace a finished checkpoint of another configuration.
        allow_double_correction: let a loss correct a prior that the sampler has balanced.
        progress: called every two seconds with where the training is, and after every epoch.

    Raises:
        UsageError: an unknown method or setting, a taken ``out``, or another process that is at
            work there.
        IdentityError: an unfinished training of other settings, source or encoder lies there.
        FitError: data or settings that cannot be trained.
        EncoderError, ManifestError, ImageError: what cannot be loaded or read.
    """
    out = require_local(out)
    if track is not None:
        require_local(track)
    manifest = source if isinstance(source, Manifest) else read_manifest(source, root=root)
    tuning = tuning_by_name(method) if isinstance(method, str) else method
    tuning = override_tuning(tuning, overrides)
    images = int(manifest.class_counts("train").sum())
    tuning = replace(tuning, optimisation=tuning.optimisation.for_images(images))
    with processes(device) as place, activations_kept():
        _check_device(tuning, place)
        parent = encoder or load_chosen(EncoderChoice(model, pretrained, activation, "cpu"))
        config = _config(tuning, seed, manifest, parent)
        if (there := _finished(out, config, overwrite)) is not None:
            return there
        require_place(out, parent)
        state = StateFolder(out.parent / f".{out.name}.tuning", config)
        with state.held(place):
            if not resume and place.first:
                state.remove()
            place.wait()
            state.read()  # what cannot go on is refused before anything is built
            assembly = assemble(
                manifest, tuning, parent, place, seed=seed,
                means=ComputeOptions(workers, checkpointing, compiled),
                allow_double_correction=allow_double_correction,
            )  # fmt: skip
            with assembly, tracked(progress, track if place.first else None) as report:
                start = _metrics(assembly)
                training = TrainingSetup(
                    tuning, assembly.step, assembly.batches,
                    assembly.judge if assembly.val is not None else None,
                    state, seed, micro_batch or _micro_batch(assembly, place),
                    save_every, place.wrapped(assembly.step), place.first, report,
                )  # fmt: skip
                done = train_encoder(training)
                place.wait()  # nobody takes the state away from under another
                return _finish(assembly, done, start, parent, place, state, out)


def _config(tuning: FineTuning, seed: int, manifest: Manifest, parent: Encoder) -> JsonObject:
    """Return all that determines a result, but for last bits, as JSON gives it back."""
    return _determined(tuning, seed, manifest.identity(), parent.identity)


def _determined(
    tuning: FineTuning, seed: int, source: Mapping[str, Any], encoder: Mapping[str, Any]
) -> JsonObject:
    config = {"method": tuning.computed(), "seed": seed, "source": source, "encoder": encoder}
    plain: JsonObject = json.loads(json.dumps(config))
    return plain


def _check_device(tuning: FineTuning, place: ProcessRanks) -> None:
    if place.device.type not in ("cpu", "cuda"):  # losses keep their counts in float64
        raise UsageError(f"device {place.device.type!r}: encoders are tuned on cpu or cuda")
    if tuning.optimisation.precision == "fp16" and not place.on_gpu:
        raise UsageError("optimisation.precision=fp16 needs a GPU; on a CPU use fp32 or bf16")


def _micro_batch(assembly: TrainingParts, place: ProcessRanks) -> int:
    """Return how many images go through the tower at once, where nobody says."""
    if place.on_gpu:
        return assembly.tuning.optimisation.batch
    step = assembly.step
    texts = step.texts is not None and step.texts.trains
    return _ON_CPU if step.objective.by_rows and not texts else _ALL_ON_CPU


def _finished(out: Path, config: JsonObject, overwrite: bool) -> FineTuned | None:
    """Return the checkpoint that is there, if it is what is asked for.

    Raises:
        UsageError: another one is there.
    """
    if not is_checkpoint(out):
        return None
    record = read_checkpoint(out).record
    if _same_result(record, config):
        return replace(open_fine_tuned(out), fresh=False)
    if overwrite:
        return None
    name = (record.get("method") or {}).get("name")
    raise UsageError(
        f"{out} holds another checkpoint (method {name!r}, seed {record.get('seed')}); choose "
        "another --out, or pass --overwrite"
    )


def _same_result(plain: Mapping[str, Any], config: JsonObject) -> bool:
    """Return whether a checkpoint's record is of a configuration; keys of earlier versions hold the
    words about the method too, so that they are made anew."""
    try:
        there = TuningRecord.from_dict(plain)
    except (ValueError, KeyError, TypeError):  # no fine-tuning, or one of a later version
        return False
    return _determined(there.method, there.seed, there.source, there.encoder) == config


def _finish(
    assembly: TrainingParts,
    done: TrainingState,
    start: Metrics | None,
    parent: Encoder,
    place: ProcessRanks,
    state: StateFolder,
    out: Path,
) -> FineTuned:
    """Merge, average, score and write what was trained."""
    began = time.perf_counter()
    step, tuning = assembly.step, assembly.tuning
    step.requires_grad_(False)
    step.model.eval()
    set_checkpointing(step.model, False)
    merge_adapters(step.model)
    fit = assembly.training_fit(done.best_epoch or len(done.history), state.config["seed"])
    if place.first and not tuning.scores_texts:  # texts need not tell even what was fitted apart
        fit.warn(tuning.name)
    averaged = None
    if tuning.average is not None:
        judge = assembly.judge if assembly.val is not None else None
        averaged = average_weights(step, assembly.start, tuning, judge)
    metrics = _metrics(assembly)
    failures = gathered_failures(assembly.failures)
    if failures and place.first:
        uri, reason = next(iter(failures.items()))
        log.warning(
            "%d images could not be read and were left out, such as %s (%s)",
            len(failures), uri, reason,
        )  # fmt: skip
    encoder = parent.with_model(step.model)
    head = None if step.head is None else copy.deepcopy(step.head).cpu().eval()
    seconds = done.seconds + time.perf_counter() - began
    record = _record(assembly, done, averaged, metrics, fit, state.config, place, seconds)
    record = replace(record, start=start, failures=failures)

    def extra(folder: Path) -> None:
        lines = "".join(json.dumps(entry) + "\n" for entry in done.history)
        (folder / HISTORY_FILE).write_text(lines, encoding="utf-8")
        if head is not None:
            tensors = {name: value.contiguous() for name, value in head.state_dict().items()}
            save_file(tensors, folder / HEAD_FILE)

    if place.first:
        save_checkpoint(out, encoder, parent=parent, record=record.to_dict(), extra=extra)
        state.remove()
    place.wait()
    return FineTuned(out, encoder, head, done.history, record)


def _metrics(assembly: TrainingParts) -> Metrics | None:
    """Return the scores of the classifier as it is on the validation split."""
    if assembly.val is None:
        return None
    rows, labels = encode_split(assembly.step.embed, assembly.val, assembly.step.field)
    with torch.no_grad():
        logits = assembly.classifier()(rows)
    return evaluate_logits(
        logits.float().cpu().numpy(),
        labels.cpu().numpy(),
        assembly.context.class_counts.numpy(),
        groups=assembly.groups,
        bootstrap=0,
    )


def _record(
    assembly: TrainingParts,
    done: TrainingState,
    averaged: AveragingChoice | None,
    metrics: Metrics | None,
    fit: TrainingFit,
    config: Mapping[str, Any],
    place: ProcessRanks,
    seconds: float,
) -> TuningRecord:
    """Return what stands in ``ltcache.json`` about the tuning, as this rank knows it."""
    step, val = assembly.step, assembly.val is not None
    tuned_on = {"epoch": "val" if val else "nothing: there is no val; the last epoch was kept"}
    if averaged is not None:
        tuned_on["average"] = averaged.tuned_on
    return TuningRecord(
        key=digest(config),
        method=assembly.tuning,
        seed=config["seed"],
        source=config["source"],
        encoder=config["encoder"],
        field=step.field,
        templates=tuple(assembly.templates),
        class_counts=tuple(assembly.context.class_counts.tolist()),
        head=None if step.head is None else TunedHead(assembly.context.dim, assembly.init),
        logit_scale=None if step.logit_scale is None else float(step.logit_scale),
        residual_prior=assembly.residual_prior,
        epoch=done.best_epoch or len(done.history),
        average=None if averaged is None else averaged.share,
        tuned_on=tuned_on,
        averaged={} if averaged is None else averaged.scores,
        splits={"train": len(assembly.batches), "val": len(assembly.val or ())},
        failures=assembly.failures,
        val=metrics,
        training=fit.to_dict(),
        cost=TuningCost(seconds, place.device.type, place.ranks, assembly.trained),
    )


def open_fine_tuned(path: str | Path, device: str = "auto") -> FineTuned:
    """Open a checkpoint with its head.

    Raises:
        EncoderError: it cannot be loaded. FitError: its head is damaged.
    """
    path = result_folder(path)
    plain = read_checkpoint(path).record
    encoder = load_encoder(f"local-dir:{path}", device=device)
    try:
        record = TuningRecord.from_dict(plain)
        lines = (path / HISTORY_FILE).read_text(encoding="utf-8").splitlines()
        head = None if record.head is None else _read_head(path / HEAD_FILE, record, record.head)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise FitError(f"{path}: the tuned head cannot be read ({error})") from error
    return FineTuned(path, encoder, head, [json.loads(line) for line in lines], record)


def _read_head(path: Path, tuning_record: TuningRecord, tuned: TunedHead) -> Head:
    tensors = load_file(path)
    kept: dict[str, Any] = {
        name.removeprefix("context_"): value
        for name, value in tensors.items()
        if name.startswith("context_")
    }
    context = HeadContext(
        dim=tuned.dim,
        num_classes=len(tuning_record.class_counts),
        class_counts=torch.tensor(tuning_record.class_counts),
        logit_scale=tuning_record.logit_scale,
        **kept,
    )
    classifier = tuning_record.method.classifier
    head = HEADS[classifier.head](context, **classifier.options)
    head.load_state_dict(tensors)
    return head.eval()
