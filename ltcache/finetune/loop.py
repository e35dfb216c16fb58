"""The training loop: epochs over images, exact to resume, alone or beside other ranks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor, nn

from ltcache.encoder.adapters import train_mode
from ltcache.errors import DivergedError, FitError
from ltcache.finetune.batches import ImageBatches
from ltcache.finetune.gather import gathered_failures, gathered_rows, ranks
from ltcache.finetune.pasting import FOREGROUND, ForegroundRows
from ltcache.finetune.reader import ImageBatch
from ltcache.finetune.spec import FineTuning, TuningOptimisation
from ltcache.finetune.state import StateFolder, TrainingState, load_optimiser, optimiser_tensors
from ltcache.finetune.step import FieldEmbedder, TrainingStep, accumulate, trained_parameters
from ltcache.fit import ParameterGroup, composites_come, optimiser_of, set_lr
from ltcache.methods import Optimisation
from ltcache.metrics import EpochRecord, validation_rank
from ltcache.records import one_line
from ltcache.sampling import SAMPLERS, RowsByClass

_TICK = 2.0  # seconds between two reports, and looks at the loss
_SAVE = 300.0  # seconds between two savings within an epoch
_LARGEST_SCALE = math.log(100)  # of CLIP's logit_scale (Radford et al., 2021, section 2.5)

Judge = Callable[[], Mapping[str, float]]


@one_line
@dataclass(frozen=True, eq=False)
class TrainingSetup:
    """All that a training needs.

    Attributes:
        tuning: with every setting written out. step: what trains, on its device.
        batches: of the training split. judge: scores of validation images, or None.
        state: where the training is kept. seed: of order, dropout and noise.
        micro_batch: most images in one pass. save_every: steps between savings; None: 5 minutes.
        distributed: wrapped for several ranks, or the step itself.
        writer: whether this process writes and reports.
        progress: called every two seconds and after every epoch.
    """

    tuning: FineTuning
    step: TrainingStep
    batches: ImageBatches
    judge: Judge | None
    state: StateFolder
    seed: int
    micro_batch: int
    save_every: int | None = None
    distributed: nn.Module | None = None
    writer: bool = True
    progress: Callable[[EpochRecord], None] | None = None
    parameters: Mapping[str, nn.Parameter] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", trained_parameters(self.step))


def train_encoder(training: TrainingSetup) -> TrainingState:
    """Train to the end, from where the state's folder says; the best epoch is put in place.

    Raises:
        DivergedError: the loss is no longer finite.
        IdentityError: the state is of another training.
    """
    optimiser = encoder_optimiser(training)
    scaler = make_scaler(training)
    place = _resumed(training, optimiser, scaler)
    epochs = training.tuning.optimisation.epochs
    device = training.step.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        while place.epoch < epochs:
            _EpochRun(training, optimiser, scaler, place).run()
    if place.best_epoch:
        _to_best(training, place.best_epoch)
    return place


@torch.no_grad()
def _to_best(training: TrainingSetup, epoch: int) -> None:
    """Put the best epoch's values in place, in all processes."""
    if training.writer:
        load_trained(training.parameters, training.state.read_best(epoch))
    if ranks() > 1:
        for parameter in training.parameters.values():
            torch.distributed.broadcast(parameter, 0)


def encoder_optimiser(training: TrainingSetup) -> torch.optim.Optimizer:
    """Return the optimiser over all that trains; only matrices and kernels decay."""
    optimisation = training.tuning.optimisation
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in training.parameters.items():
        decay = optimisation.weight_decay if parameter.ndim > 1 else 0.0
        factor = training.tuning.lr_factors[part_of(name)]
        groups.setdefault((factor, decay), []).append(parameter)
    same = Optimisation(optimisation.optimiser, optimisation.lr, momentum=optimisation.momentum)
    settings: list[ParameterGroup] = [
        {"params": [*parameters], "weight_decay": decay, "factor": factor}
        for (factor, decay), parameters in groups.items()
    ]
    return optimiser_of(settings, same)


def part_of(name: str) -> str:
    """Return which of :data:`ltcache.finetune.spec.PARTS` a parameter of a step belongs to."""
    if name.startswith("head."):
        return "classifier"
    inner = name.removeprefix("model.")
    if inner.startswith("visual.adapters.") or ".parametrizations." in inner:
        return "adapters"
    return "image" if inner.startswith("visual.") else "text"


def make_scaler(training: TrainingSetup) -> torch.amp.GradScaler:
    """Return what keeps the gradients of float16 from vanishing; it does nothing otherwise."""
    device = training.step.device.type
    wanted = training.tuning.optimisation.precision == "fp16" and device == "cuda"
    return torch.amp.GradScaler(device, enabled=wanted)


def lr_at(optimisation: TuningOptimisation, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step, counted from 0 over all epochs."""
    total = optimisation.epochs * steps_per_epoch
    warmup = min(round(optimisation.warmup * steps_per_epoch), total // 2)
    if step < warmup:
        return optimisation.lr * (step + 1) / (warmup + 1)
    done = (step - warmup) / (total - warmup)
    return optimisation.lr * (1 + math.cos(math.pi * done)) / 2


def mixed_seed(*numbers: int) -> int:
    """Return a seed that differs where any of several numbers does."""
    value = 0
    for number in numbers:
        value = ((value ^ number) * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**63
    return value


@torch.no_grad()
def load_trained(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    """Put back the values of all that trains."""
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])


def _resumed(
    training: TrainingSetup, optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> TrainingState:
    """Return where the training begins, everything put back as it was there."""
    found = training.state.read()
    if found is None:
        return TrainingState()
    place, tensors = found
    load_trained(training.parameters, tensors)
    load_optimiser(optimiser, training.parameters, tensors)
    objective = training.step.objective
    state = objective.state_dict()
    objective.load_state_dict({name: tensors[f"objective.{name}"] for name in state})
    if place.scaler:
        scaler.load_state_dict(place.scaler)
    training.batches.failures |= place.failures
    return place


class _EpochRun:
    """One epoch, or what is left of it."""

    def __init__(
        self,
        training: TrainingSetup,
        optimiser: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        place: TrainingState,
    ) -> None:
        self.training = training
        self.optimiser = optimiser
        self.scaler = scaler
        self.place = place
        self.device = training.step.device
        self.epochs = training.tuning.optimisation.epochs
        labels = training.batches.labels
        by_class = RowsByClass.of(labels, int(labels.max()) + 1)
        self.order = self._drawn(training.tuning.sampler, by_class, 1)
        self.foregrounds = None
        if training.tuning.composites and composites_come(place.epoch, self.epochs):
            rows = self._drawn(FOREGROUND, by_class, 2)
            self.foregrounds = ForegroundRows(rows, training.tuning.composites)
        self.steps = training.batches.steps(len(self.order))
        self.total = torch.tensor(place.losses, dtype=torch.float64, device=self.device)
        self.began = self.saved = self.told = time.perf_counter()
        self.before = place.seconds
        self.seen = 0

    def _drawn(self, name: str, by_class: RowsByClass, stream: int) -> Tensor:
        """Return the rows of this epoch as a sampler draws them."""
        seed = mixed_seed(self.training.seed, self.place.epoch, stream)
        generator = Generator().manual_seed(seed)
        return SAMPLERS[name].draw(by_class, generator, self.place.epoch / self.epochs)

    def run(self) -> None:
        """Train to the end of the epoch, judge, keep the best, save."""
        self.training.step.train()
        train_mode(self.training.step.model)
        training, place = self.training, self.place
        batches = training.batches.epoch(
            self.order, epoch=place.epoch, epochs=self.epochs, start=place.step,
            foregrounds=self.foregrounds,
        )  # fmt: skip
        for batch in batches:
            place.passed += batch.number - place.step
            place.step = batch.number
            self._step(batch)
            place.step += 1
            self._after_step(len(batch.labels) * ranks())
        self._finish()

    def _step(self, batch: ImageBatch) -> None:
        training, optimisation = self.training, self.training.tuning.optimisation
        number = self.place.epoch * self.steps + self.place.step
        set_lr(self.optimiser, lr_at(optimisation, number, self.steps))
        training.step.begin_step(number)
        rank = training.batches.rank

        def seeded(micro: int) -> None:
            torch.manual_seed(mixed_seed(training.seed, number, rank, micro))

        with _enough_memory(training):
            loss = accumulate(
                training.distributed or training.step,
                batch.pixels.to(self.device, non_blocking=True),
                batch.labels,
                share=batch.share,
                micro_batch=training.micro_batch,
                progress=number / (self.epochs * self.steps),
                backward=lambda value: self.scaler.scale(value).backward(),
                seeded=seeded,
            )
        if optimisation.clip is not None:
            self.scaler.unscale_(self.optimiser)
            torch.nn.utils.clip_grad_norm_(list(training.parameters.values()), optimisation.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad()
        self._limit_scale()
        self.total += loss

    @torch.no_grad()
    def _limit_scale(self) -> None:
        scale = getattr(self.training.step.model, "logit_scale", None)
        if scale is not None and scale.requires_grad:
            scale.clamp_(0, _LARGEST_SCALE)

    def _after_step(self, images: int) -> None:
        """Report and save when it is time."""
        self.seen += images
        self.place.images += images
        now = time.perf_counter()
        if now - self.told >= _TICK:
            self.told = now
            self._require_finite()
            self._report(now)
        every = self.training.save_every
        due = now - self.saved >= _SAVE if every is None else self.place.step % every == 0
        if due and self.place.step < self.steps:
            self._save()
            self.saved = now

    def _report(self, now: float) -> None:
        if not self.training.writer or self.training.progress is None:
            return
        place, rate = self.place, self.seen / (now - self.began)
        left = (self.epochs - place.epoch) * len(self.order) - place.images
        self.training.progress(
            {
                "epoch": place.epoch + 1,
                "epochs": self.epochs,
                "step": place.step,
                "steps": self.steps,
                "loss": self._mean_loss(),
                "lr": self.optimiser.param_groups[0]["lr"] / _factor(self.optimiser),
                "images_per_second": rate,
                "eta_seconds": left / rate,
            }
        )

    def _mean_loss(self) -> float:
        """Return the mean over this epoch's steps so far."""
        return float(self.total) / max(1, self.place.step - self.place.passed)

    def _require_finite(self) -> None:
        if not math.isfinite(value := float(self.total)):
            lr = self.training.tuning.optimisation.lr
            raise DivergedError(
                f"the loss is {value} in epoch {self.place.epoch + 1}, step {self.place.step}; "
                f"lower optimisation.lr ({lr:g}), or set optimisation.clip=1"
            )

    def _finish(self) -> None:
        training, place = self.training, self.place
        self._require_finite()
        now = time.perf_counter()
        record: EpochRecord = {
            "epoch": place.epoch + 1,
            "epochs": self.epochs,
            "loss": self._mean_loss(),
            "lr": self.optimiser.param_groups[0]["lr"] / _factor(self.optimiser),
            "images_per_second": self.seen / max(1e-9, now - self.began),
        }
        if training.judge is not None:
            record |= training.judge()
            rank = validation_rank(record)
            if rank > place.best or not place.best_epoch:
                place.best, place.best_epoch = rank, place.epoch + 1
                if training.writer:
                    training.state.write_best(place.best_epoch, training.parameters)
        record["seconds"] = self.before + time.perf_counter() - self.began
        place.history.append(record)
        place.epoch, place.step, place.passed = place.epoch + 1, 0, 0
        place.losses, place.images = 0.0, 0
        self.total.zero_()
        training.batches.failures = gathered_failures(training.batches.failures)
        self._save()
        if training.writer and training.progress is not None:
            training.progress(record)

    def _save(self) -> None:
        training, place = self.training, self.place
        place.losses = float(self.total)
        place.seconds = self.before + time.perf_counter() - self.began
        place.scaler = dict(self.scaler.state_dict())
        place.failures = dict(training.batches.failures)
        if not training.writer:
            return
        tensors: dict[str, Tensor] = dict(training.parameters)
        tensors |= optimiser_tensors(self.optimiser, training.parameters)
        state = training.step.objective.state_dict()
        tensors |= {f"objective.{name}": value for name, value in state.items()}
        training.state.write(place, tensors)


@contextmanager
def _enough_memory(training: TrainingSetup) -> Iterator[None]:
    """Say what to do where a GPU's memory does not hold a pass."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        size = min(training.micro_batch, training.tuning.optimisation.batch)
        raise FitError(
            f"the GPU's memory does not hold {size} images at a time: pass --micro-batch "
            f"{max(1, size // 2)} (the gradient stays that of the batch), --checkpointing, or "
            "-s optimisation.precision=bf16; the training goes on where it was saved"
        ) from None


def _factor(optimiser: torch.optim.Optimizer) -> float:
    factor: float = optimiser.param_groups[0]["factor"]
    return factor or 1.0


@torch.no_grad()
def encode_split(
    embed: FieldEmbedder, batches: ImageBatches, name: str, order: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return one field (N, dim) and the labels (N,) of a split's images, of all ranks together.

    Args:
        order: positions of the images to encode; None: all.
    """
    embed.model.eval()
    found: list[tuple[Tensor, Tensor]] = []
    for batch in batches.epoch(order):
        fields = embed(batch.pixels.to(embed.device, non_blocking=True))
        found.append((fields[name], batch.labels.to(embed.device)))
    rows, labels = gathered_rows(*(torch.cat(part) for part in zip(*found, strict=True)))
    return rows, labels
